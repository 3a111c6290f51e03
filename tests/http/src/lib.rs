//! An HTTP API for tests that does what it is told: answers, and all that goes wrong on the way. It speaks HTTP/1.1 by hand over blocking sockets,
//! since no library lets one send what is wrong.
//!
//! Depends on no aqueduct crate and on no HTTP library. Everything panics with what a person needs to see.
//!
//! ```text
//! let api = Api::start(|request: &Request| Answer::json(200, "[]"));      any number of connections, keep-alive
//! let api = Api::start_tls(&Certificates::new(), client_certs_wanted, |request| …);
//! api.url("/items"), api.port(), api.requests(): Vec<Request>, api.fault("/items", Fault::…): for the next request to a path, in order
//! let feed = Feed::new(); feed.add(100); Api::start(feed.handler(Paged::Cursor, 7))   a paged API with stable cursors
//! ```

mod answer;
mod feed;
mod server;
mod tls;

pub use answer::{Answer, Body, Fault, bomb, compressed};
pub use feed::{Feed, Paged};
pub use server::{Api, Request};
pub use tls::{Certificates, install_crypto};
