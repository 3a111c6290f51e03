//! What `wasi:io` waits for is bounded: a socket whose other end says nothing, a pipe among the files that are granted. WASI has the waits in two
//! places, for pollables and in the streams' blocking calls; all else in both is wasmtime's own.

use crate::error::Interrupted;
use crate::imports::Imports;
use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult};
use wasmtime_wasi_io::bindings::wasi::io::poll::{self, Host as Polls, HostPollable};
use wasmtime_wasi_io::bindings::wasi::io::streams::{self, Host as Streams, HostInputStream, HostOutputStream};

/// The linker allows shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<Imports>) -> Result<()> {
    poll::add_to_linker::<_, HasSelf<Imports>>(linker, |imports| imports)?;
    streams::add_to_linker::<_, HasSelf<Imports>>(linker, |imports| imports)
}

/// Within what the call may wait for the outside; else it ends the instance.
macro_rules! within {
    ($imports:ident, $wait:expr) => {
        $imports.call.outside(&$imports.abandoned, $wait).await
    };
}

fn trap(interrupted: Interrupted) -> StreamError {
    StreamError::Trap(interrupted.into())
}

impl Polls for Imports {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        within!(self, Polls::poll(&mut self.table, pollables))?
    }
}

impl HostPollable for Imports {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        within!(self, HostPollable::block(&mut self.table, pollable))?
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> Result<bool> {
        HostPollable::ready(&mut self.table, pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        HostPollable::drop(&mut self.table, pollable)
    }
}

impl Streams for Imports {
    fn convert_stream_error(&mut self, error: StreamError) -> Result<streams::StreamError> {
        Streams::convert_stream_error(&mut self.table, error)
    }
}

impl HostInputStream for Imports {
    async fn blocking_read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        within!(self, HostInputStream::blocking_read(&mut self.table, stream, len)).map_err(trap)?
    }

    async fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        within!(self, HostInputStream::blocking_skip(&mut self.table, stream, len)).map_err(trap)?
    }

    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        HostInputStream::read(&mut self.table, stream, len)
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        HostInputStream::skip(&mut self.table, stream, len)
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> Result<Resource<DynPollable>> {
        HostInputStream::subscribe(&mut self.table, stream)
    }

    async fn drop(&mut self, stream: Resource<DynInputStream>) -> Result<()> {
        HostInputStream::drop(&mut self.table, stream).await
    }
}

impl HostOutputStream for Imports {
    async fn blocking_write_and_flush(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        within!(self, HostOutputStream::blocking_write_and_flush(&mut self.table, stream, bytes)).map_err(trap)?
    }

    async fn blocking_write_zeroes_and_flush(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        within!(self, HostOutputStream::blocking_write_zeroes_and_flush(&mut self.table, stream, len)).map_err(trap)?
    }

    async fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        within!(self, HostOutputStream::blocking_flush(&mut self.table, stream)).map_err(trap)?
    }

    async fn blocking_splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        within!(self, HostOutputStream::blocking_splice(&mut self.table, to, from, len)).map_err(trap)?
    }

    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        HostOutputStream::check_write(&mut self.table, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        HostOutputStream::write(&mut self.table, stream, bytes)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        HostOutputStream::write_zeroes(&mut self.table, stream, len)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        HostOutputStream::flush(&mut self.table, stream)
    }

    fn splice(&mut self, to: Resource<DynOutputStream>, from: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        HostOutputStream::splice(&mut self.table, to, from, len)
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> Result<Resource<DynPollable>> {
        HostOutputStream::subscribe(&mut self.table, stream)
    }

    async fn drop(&mut self, stream: Resource<DynOutputStream>) -> Result<()> {
        HostOutputStream::drop(&mut self.table, stream).await
    }
}
