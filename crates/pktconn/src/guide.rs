#![doc = include_str!("../guide/README.md")]

#[doc = include_str!("../guide/from_go.md")]
pub mod from_go {}

#[doc = include_str!("../guide/from_length_delimited.md")]
pub mod from_length_delimited {}

#[doc = include_str!("../guide/request_response.md")]
pub mod request_response {}

#[doc = include_str!("../guide/backpressure.md")]
pub mod backpressure {}

#[doc = include_str!("../guide/slow_consumers.md")]
pub mod slow_consumers {}

#[doc = include_str!("../guide/shutdown.md")]
pub mod shutdown {}

#[doc = include_str!("../guide/heartbeats.md")]
pub mod heartbeats {}

#[cfg(feature = "tls")]
#[doc = include_str!("../guide/tls.md")]
pub mod tls {}

#[cfg(feature = "session")]
#[doc = include_str!("../guide/sessions.md")]
pub mod sessions {}

#[doc = include_str!("../guide/open_internet.md")]
pub mod open_internet {}

#[doc = include_str!("../guide/runtimes.md")]
pub mod runtimes {}

#[doc = include_str!("../guide/testing.md")]
pub mod testing {}
