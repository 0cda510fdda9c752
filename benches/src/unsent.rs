//! Bytes that a socket would not take yet.

use std::io::{self, ErrorKind, IoSlice, Write};

/// Bytes that wait until a socket is writable again. Holds no memory when empty.
#[derive(Debug, Default)]
pub struct Unsent {
    bytes: Vec<u8>,
    sent_len: usize,
}

impl Unsent {
    /// Nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Queues what is left of `first` followed by `rest`, of which `sent_len` bytes were written already.
    ///
    /// `first` is kept as it is, without a copy: it can be a frame of many MiB.
    pub fn keep(&mut self, first: Vec<u8>, rest: &[u8], sent_len: usize) {
        debug_assert!(self.is_empty(), "what waits goes first");
        match sent_len.checked_sub(first.len()) {
            None => {
                (self.bytes, self.sent_len) = (first, sent_len);
                self.bytes.extend_from_slice(rest);
            }
            Some(rest_sent_len) => self.bytes.extend_from_slice(&rest[rest_sent_len..]),
        }
    }

    /// Queues `bytes` behind what waits.
    ///
    /// What was sent gives its room back before it is more than what waits, so that a queue that is never empty does not
    /// grow with all that ever passed through it.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.sent_len > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent_len);
            self.sent_len = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes until nothing waits (true) or the socket takes no more (false).
    ///
    /// # Errors
    ///
    /// Whatever the socket reports, other than that it would block.
    pub fn flush(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        while self.sent_len < self.bytes.len() {
            match write_some(socket, &[], &self.bytes[self.sent_len..])? {
                0 => return Ok(false),
                written_len => self.sent_len += written_len,
            }
        }
        *self = Self::default();
        Ok(true)
    }
}

/// Writes `first` and `rest` in one system call, and tells how many bytes the socket took: 0 when it would block.
///
/// # Errors
///
/// Whatever the socket reports, other than that it would block.
#[inline]
pub fn write_some(socket: &mut impl Write, first: &[u8], rest: &[u8]) -> io::Result<usize> {
    loop {
        let written = match first.is_empty() {
            true => socket.write(rest),
            false => socket.write_vectored(&[IoSlice::new(first), IoSlice::new(rest)]),
        };
        match written {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes at most `room` bytes, then would block.
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            // Two bytes a call, so that flushing needs several.
            let written_len = bytes.len().min(self.room).min(2);
            self.taken.extend_from_slice(&bytes[..written_len]);
            self.room -= written_len;
            Ok(written_len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_kept_follows_what_was_sent_wherever_the_write_stopped() {
        for sent_len in 0..5 {
            let mut unsent = Unsent::default();
            unsent.keep(b"abc".to_vec(), b"de", sent_len);
            let mut socket = Narrow { taken: b"abcde"[..sent_len].to_vec(), room: 100 };
            assert!(unsent.flush(&mut socket).unwrap());
            assert_eq!(socket.taken, b"abcde", "stopped at {sent_len}");
            assert_eq!(unsent.bytes.capacity(), 0, "no memory when empty");
        }
    }

    #[test]
    fn a_queue_that_is_never_empty_holds_no_more_than_twice_what_waits() {
        let mut unsent = Unsent::default();
        let mut socket = Narrow { taken: Vec::new(), room: 0 };
        let mut pushed = Vec::new();
        for turn in 0..100 {
            let bytes = [turn; 10];
            unsent.push(&bytes);
            pushed.extend(bytes);
            socket.room = if turn == 0 { 5 } else { 10 };
            assert!(!unsent.flush(&mut socket).unwrap());
            assert!(unsent.bytes.len() <= 20, "{} bytes", unsent.bytes.len());
        }
        socket.room = 100;
        assert!(unsent.flush(&mut socket).unwrap());
        assert_eq!(socket.taken, pushed);
    }

    #[test]
    fn a_flush_goes_on_where_the_socket_stopped() {
        let mut unsent = Unsent::default();
        unsent.push(b"abcdefg");
        let mut socket = Narrow { taken: Vec::new(), room: 3 };
        assert!(!unsent.flush(&mut socket).unwrap());
        unsent.push(b"h");
        socket.room = 100;
        assert!(unsent.flush(&mut socket).unwrap());
        assert_eq!(socket.taken, b"abcdefgh");
    }
}
