//! Bytes that a socket did not accept yet.

use std::io::{self, ErrorKind, IoSlice, Write};

/// Bytes that wait until the socket is writable. Holds no memory when empty.
#[derive(Debug, Default)]
pub struct SendQueue {
    bytes: Vec<u8>,
    written_len: usize,
}

impl SendQueue {
    /// Returns true if no bytes wait.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Fills an empty queue with `first` followed by `rest`, of which `written_len` bytes were already written.
    ///
    /// `first` is not copied: it can be a frame of many MiB.
    ///
    /// # Panics
    ///
    /// In debug builds, if the queue is not empty.
    pub fn push_unwritten(&mut self, first: Vec<u8>, rest: &[u8], written_len: usize) {
        debug_assert!(self.is_empty(), "older bytes must be written first");
        match written_len.checked_sub(first.len()) {
            None => {
                (self.bytes, self.written_len) = (first, written_len);
                self.bytes.extend_from_slice(rest);
            }
            Some(rest_written_len) => self.bytes.extend_from_slice(&rest[rest_written_len..]),
        }
    }

    /// Appends `bytes`.
    ///
    /// Written bytes are removed once they are more than half of the queue. Without this, a queue that is never empty
    /// would grow forever.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.written_len > self.bytes.len() / 2 {
            self.bytes.drain(..self.written_len);
            self.written_len = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes until the queue is empty (returns true) or the socket is full (returns false).
    ///
    /// # Errors
    ///
    /// Every error of the socket except `WouldBlock`.
    pub fn flush(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        while self.written_len < self.bytes.len() {
            match write_some(socket, &[], &self.bytes[self.written_len..])? {
                0 => return Ok(false),
                len => self.written_len += len,
            }
        }
        *self = Self::default();
        Ok(true)
    }
}

/// Writes `first` and `rest` in one system call. Returns how many bytes the socket accepted: 0 if it is full.
///
/// # Errors
///
/// Every error of the socket except `WouldBlock`.
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

    /// A socket that accepts `room` bytes and is then full.
    struct SmallSocket {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for SmallSocket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            // Two bytes per call, so that flushing needs several calls.
            let written_len = bytes.len().min(self.room).min(2);
            self.written.extend_from_slice(&bytes[..written_len]);
            self.room -= written_len;
            Ok(written_len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_queue_continues_where_the_write_stopped() {
        for written_len in 0..5 {
            let mut queue = SendQueue::default();
            queue.push_unwritten(b"abc".to_vec(), b"de", written_len);
            let mut socket = SmallSocket { written: b"abcde"[..written_len].to_vec(), room: 100 };
            assert!(queue.flush(&mut socket).unwrap());
            assert_eq!(socket.written, b"abcde", "stopped at {written_len}");
            assert_eq!(queue.bytes.capacity(), 0, "no memory when empty");
        }
    }

    #[test]
    fn a_queue_that_is_never_empty_holds_at_most_twice_the_unwritten_bytes() {
        let mut queue = SendQueue::default();
        let mut socket = SmallSocket { written: Vec::new(), room: 0 };
        let mut pushed = Vec::new();
        for turn in 0..100 {
            let bytes = [turn; 10];
            queue.push(&bytes);
            pushed.extend(bytes);
            socket.room = if turn == 0 { 5 } else { 10 };
            assert!(!queue.flush(&mut socket).unwrap());
            assert!(queue.bytes.len() <= 20, "{} bytes", queue.bytes.len());
        }
        socket.room = 100;
        assert!(queue.flush(&mut socket).unwrap());
        assert_eq!(socket.written, pushed);
    }

    #[test]
    fn a_flush_continues_where_the_last_one_stopped() {
        let mut queue = SendQueue::default();
        queue.push(b"abcdefg");
        let mut socket = SmallSocket { written: Vec::new(), room: 3 };
        assert!(!queue.flush(&mut socket).unwrap());
        queue.push(b"h");
        socket.room = 100;
        assert!(queue.flush(&mut socket).unwrap());
        assert_eq!(socket.written, b"abcdefgh");
    }
}
