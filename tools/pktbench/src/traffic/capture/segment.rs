//! The headers of a captured packet: link layer, IP and TCP.

use std::net::IpAddr;

use etherparse::{EtherType, IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_parser::Linktype;

/// The name of the numbers 12 and 14 that some systems use for raw IP instead of 101.
const RAW_IP: [i32; 3] = [12, 14, 101];

/// What a captured packet contains.
pub(super) enum Contents<'a> {
    Tcp(Segment<'a>),
    /// A part of an IP packet with TCP.
    Fragment,
    /// TCP whose header was not captured.
    Cut,
    Other,
}

/// The addresses of client and server. The port of the server is the same for all flows.
pub(super) type FlowKey = (IpAddr, u16, IpAddr);

pub(super) struct Segment<'a> {
    pub(super) key: FlowKey,
    pub(super) to_port: u16,
    pub(super) sequence: u32,
    /// The first segment of a client.
    pub(super) is_syn: bool,
    pub(super) is_fin: bool,
    /// Whether the payload is longer than what was captured.
    pub(super) is_cut: bool,
    pub(super) payload: &'a [u8],
}

pub(super) fn parse(link: Linktype, data: &[u8]) -> Result<Contents<'_>, String> {
    let Some(packet) = network_packet(link, data)? else { return Ok(Contents::Other) };
    let (from, to) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        _ => return Ok(Contents::Other),
    };
    let Some(ip) = packet.ip_payload().filter(|ip| ip.ip_number == IpNumber::TCP) else {
        return Ok(Contents::Other);
    };
    if ip.fragmented {
        return Ok(Contents::Fragment);
    }
    Ok(match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => Contents::Tcp(Segment {
            key: (from, tcp.source_port(), to),
            to_port: tcp.destination_port(),
            sequence: tcp.sequence_number(),
            is_syn: tcp.syn() && !tcp.ack(),
            is_fin: tcp.fin(),
            is_cut: ip.incomplete,
            payload: tcp.payload(),
        }),
        _ if ip.incomplete => Contents::Cut,
        _ => Contents::Other,
    })
}

/// The packet behind the header of the link layer. `None` if it has none, or one that was not captured.
fn network_packet(link: Linktype, data: &[u8]) -> Result<Option<LaxSlicedPacket<'_>>, String> {
    let of_ether_type = |header_len: usize, ether_type_at: usize| {
        let (header, payload) = data.split_at_checked(header_len)?;
        let ether_type = u16::from_be_bytes([header[ether_type_at], header[ether_type_at + 1]]);
        Some(LaxSlicedPacket::from_ether_type(EtherType(ether_type), payload))
    };
    Ok(match link {
        Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(data).ok(),
        Linktype::LINUX_SLL => of_ether_type(16, 14),
        Linktype::LINUX_SLL2 => of_ether_type(20, 0),
        // The 4 bytes of the header are the address family, whose numbers differ between systems. The IP packet has its
        // own version number.
        Linktype::NULL | Linktype::LOOP => data.get(4..).and_then(|data| LaxSlicedPacket::from_ip(data).ok()),
        Linktype::IPV4 | Linktype::IPV6 => LaxSlicedPacket::from_ip(data).ok(),
        Linktype(number) if RAW_IP.contains(&number) => LaxSlicedPacket::from_ip(data).ok(),
        Linktype(number) => {
            return Err(format!(
                "link type {number} is not supported; capture on Ethernet, on loopback, or on all interfaces with \
                 'tcpdump -i any'"
            ));
        }
    })
}
