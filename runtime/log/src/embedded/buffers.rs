//! Buffers that reads go to: taken back when the last record of a read is dropped, wherever that is. Fresh ones would cost a page fault for every
//! 4 KiB of every read, and each thread's allocator would keep some of its own.

use bytes::Bytes;
use parking_lot::Mutex;
use std::mem::take;

/// Of the whole process: as many reads as are usually under way at once.
static FREE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
const FREE_MAX: usize = 8;
/// Larger ones are for records of that size: too rare to be kept.
const BYTES_MAX: usize = 2 << 20;

/// An empty buffer with room for so many bytes.
pub(crate) fn with_room(bytes: usize) -> Vec<u8> {
    let mut buffer = FREE.lock().pop().unwrap_or_default();
    buffer.reserve(bytes);
    buffer
}

/// What was read, to be shared.
pub(crate) fn share(buffer: Vec<u8>) -> Bytes {
    Bytes::from_owner(Shared(buffer))
}

struct Shared(Vec<u8>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut free = FREE.lock();
        if free.len() < FREE_MAX && self.0.capacity() <= BYTES_MAX {
            let mut buffer = take(&mut self.0);
            buffer.clear();
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_when_its_last_part_is_dropped() {
        let mut buffer = with_room(100);
        buffer.extend_from_slice(b"abc");
        let whole = share(buffer);
        let part = whole.slice(1..2);
        drop(whole);
        assert_eq!(&part[..], b"b");
        drop(part);
        assert!(with_room(1).is_empty());
        assert!(FREE.lock().len() <= FREE_MAX);
    }
}
