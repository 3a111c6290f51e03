//! Bodies, bounded in size, time and memory.

use crate::answer::Refusal;
use crate::intake::Held;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use hyper::{HeaderMap, StatusCode};
use std::time::Duration;
use tokio::time::timeout;

/// Small bodies leave the connection's read buffer at once: it is larger than they are.
const COPIED_MAX: usize = 16 * 1024;
/// Of a body that is not wanted: so much is read away, so that its sender (or a proxy) gets to read the answer, and not that the connection was reset.
const DRAINED_MAX: usize = 32 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn slow() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time (body.timeout.ms)")
}

/// The whole body; `held` grows with what came, not with what was announced.
pub(crate) async fn read(body: &mut Incoming, max: usize, held: &mut Held) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::too_large(format!("the body has more than {max} bytes (body.max.bytes)"));
    let announced = body.size_hint().upper();
    if announced.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    let (mut first, mut rest, mut length) = (Bytes::new(), BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::bad("the body is malformed, or was cut"))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > max {
            return Err(too_large());
        }
        if length == data.len() {
            held.grow(length)?;
            first = if length <= COPIED_MAX { Bytes::copy_from_slice(&data) } else { data };
            continue;
        }
        let before = rest.capacity();
        rest.extend_from_slice(&std::mem::take(&mut first));
        rest.extend_from_slice(&data);
        held.grow(rest.capacity() - before)?;
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// Reads away a body that is not wanted. Who waits to be asked for it (`Expect`) is not asked.
pub(crate) async fn drain(head: &HeaderMap, body: &mut Incoming) {
    if head.contains_key(EXPECT) {
        return;
    }
    let away = async {
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > DRAINED_MAX {
                return;
            }
        }
    };
    let _ = timeout(DRAIN_TIMEOUT, away).await;
}
