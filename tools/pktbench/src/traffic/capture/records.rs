//! The file formats of captures, pcap and pcapng: one record per captured packet.

use std::io::Read;

use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

/// The size of the buffer at the start. It grows up to twice the size of the largest packet.
const BUFFER_LEN: usize = 1 << 18;

const NS_PER_S: u64 = 1_000_000_000;

/// A captured packet.
pub(super) struct Record<'a> {
    /// The time since 1970.
    pub(super) time_ns: u64,
    pub(super) link: Linktype,
    pub(super) data: &'a [u8],
}

/// How the packets of an interface are to be read.
#[derive(Clone, Copy)]
struct Interface {
    link: Linktype,
    /// Time stamps are in units of 1/`units_per_s` s. At least 1.
    units_per_s: u64,
}

/// Calls `on_record` for each packet, with its number from 1. Returns whether the file has an orderly end.
pub(super) fn for_each(
    file: impl Read + Send,
    mut on_record: impl FnMut(u64, Record<'_>) -> Result<(), String>,
) -> Result<bool, String> {
    let mut reader = match create_reader(BUFFER_LEN, file) {
        Ok(reader) => reader,
        Err(PcapError::ReadError) => return Err("it cannot be read".to_owned()),
        Err(_) => return Err("it is no capture; give a file in the format pcap or pcapng".to_owned()),
    };
    let (mut capacity, mut number, mut interfaces) = (BUFFER_LEN, 0, Vec::new());
    loop {
        let consumed = match reader.next() {
            Ok((len, block)) => {
                if let Some(record) = record(&block, &mut interfaces)? {
                    number += 1;
                    on_record(number, record)?;
                }
                len
            }
            Err(PcapError::Eof) => return Ok(true),
            Err(PcapError::UnexpectedEof) => return Ok(reader.data().is_empty()),
            Err(PcapError::Incomplete(_) | PcapError::BufferTooSmall) => {
                // Grows only when it is full, so a length that the file claims reserves no memory.
                if reader.data().len() == capacity {
                    capacity *= 2;
                    reader.grow(capacity);
                }
                reader.refill().map_err(|_| format!("it cannot be read after packet {number}"))?;
                continue;
            }
            Err(_) => return Err(format!("it is damaged after packet {number}")),
        };
        reader.consume(consumed);
    }
}

/// The record in a block, if it has one. Learns the interfaces.
fn record<'a>(
    block: &'a PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
) -> Result<Option<Record<'a>>, String> {
    Ok(match block {
        PcapBlockOwned::LegacyHeader(header) => {
            let units_per_s = if header.is_nanosecond_precision() { NS_PER_S } else { 1_000_000 };
            // The upper bits tell the length of the frame check sequence, which follows the IP packet.
            let link = Linktype(header.network.0 & 0xffff);
            interfaces.push(Interface { link, units_per_s });
            None
        }
        PcapBlockOwned::Legacy(block) => {
            let Interface { link, units_per_s } = interface(interfaces, 0)?;
            let time_ns =
                u64::from(block.ts_sec) * NS_PER_S + u64::from(block.ts_usec) * (NS_PER_S / units_per_s);
            Some(Record { time_ns, link, data: block.data })
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            None
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(block)) => {
            // `if_tsoffset` is ignored: only differences of times matter, and nobody sets it for one of several interfaces.
            interfaces.push(Interface { link: block.linktype, units_per_s: units_per_s(block.if_tsresol)? });
            None
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
            let Interface { link, units_per_s } = interface(interfaces, block.if_id)?;
            let units = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
            Some(Record { time_ns: to_ns(units, units_per_s), link, data: block.packet_data() })
        }
        PcapBlockOwned::NG(Block::SimplePacket(_)) => {
            return Err("its packets have no times (simple packet blocks); capture with tcpdump".to_owned());
        }
        PcapBlockOwned::NG(_) => None,
    })
}

fn interface(interfaces: &[Interface], id: u32) -> Result<Interface, String> {
    let interface = interfaces.get(id as usize).copied();
    interface.ok_or_else(|| format!("it is damaged: interface {id} has packets but no description"))
}

/// The unit of `if_tsresol`: a negative power of 10, or of 2 if the highest bit is set.
fn units_per_s(resolution: u8) -> Result<u64, String> {
    let exponent = u32::from(resolution & 0x7f);
    let units =
        if resolution & 0x80 == 0 { 10_u64.checked_pow(exponent) } else { 2_u64.checked_pow(exponent) };
    units.ok_or_else(|| format!("it is damaged: its times have the unknown resolution {resolution}"))
}

fn to_ns(units: u64, units_per_s: u64) -> u64 {
    let ns = u128::from(units) * u128::from(NS_PER_S) / u128::from(units_per_s);
    u64::try_from(ns).unwrap_or(u64::MAX)
}
