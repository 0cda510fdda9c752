//! An echo server and a client on the smol runtime. Shows how to use the codec without tokio.
//!
//! Run it with `cargo run -p pktconn-codec --example smol`.

use std::io;

use bytes::BytesMut;
use pktconn_codec::{Packet, PacketCodec};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};

/// Sends and receives packets over a TCP stream.
struct PacketStream {
    stream: TcpStream,
    codec: PacketCodec,
    /// The bytes that are received and not decoded yet.
    received: BytesMut,
    /// The frame to send. Kept to reuse its memory.
    frame: BytesMut,
}

impl PacketStream {
    fn new(stream: TcpStream) -> Self {
        Self { stream, codec: PacketCodec::default(), received: BytesMut::new(), frame: BytesMut::new() }
    }

    /// Receives the next packet. Returns `None` if the peer has closed the stream between two packets.
    async fn recv(&mut self) -> io::Result<Option<Packet>> {
        loop {
            if let Some(packet) = self.codec.decode_frame(&mut self.received).map_err(io::Error::other)? {
                return Ok(Some(packet));
            }
            let mut chunk = [0; 8 * 1024];
            let count = self.stream.read(&mut chunk).await?;
            if count == 0 {
                return self.codec.decode_end(&self.received).map(|()| None).map_err(io::Error::other);
            }
            self.received.extend_from_slice(&chunk[..count]);
        }
    }

    async fn send(&mut self, packet: &Packet) -> io::Result<()> {
        self.frame.clear();
        self.codec.encode_frame(packet, &mut self.frame).map_err(io::Error::other)?;
        self.stream.write_all(&self.frame).await
    }
}

fn main() -> io::Result<()> {
    smol::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let server = smol::spawn(async move {
            let (stream, _) = listener.accept().await?;
            let mut packets = PacketStream::new(stream);
            while let Some(packet) = packets.recv().await? {
                packets.send(&packet).await?;
            }
            io::Result::Ok(())
        });

        let mut packets = PacketStream::new(TcpStream::connect(addr).await?);
        packets.send(&"hello".into()).await?;
        let reply = packets.recv().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        println!("{}", String::from_utf8_lossy(reply.payload()));
        drop(packets);
        server.await
    })
}
