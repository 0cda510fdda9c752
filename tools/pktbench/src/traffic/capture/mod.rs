//! Takes the packets of a load from a capture of real traffic: the data that clients sent to one TCP port.
//!
//! ```text
//!   file --records--> headers --> TCP segment --flow--> bytes in order --frames--> sizes and times of packets
//!                                                           '-- not frames --> one packet per segment
//! ```
//!
//! Pure: bytes in, flows out. What cannot be used is counted, and [`Notes`] says what to do about it.

mod packet;

mod records;

mod segment;

mod flow;

mod frames;

mod notes;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Read;

use pktconn::CodecConfig;

use flow::FlowBuilder;
pub(crate) use notes::Notes;
pub(crate) use packet::{Flow, RecordedPacket};
use segment::{Contents, FlowKey, Segment};

/// The usable contents of a capture. Without an error there is at least one flow.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    pub(crate) flows: Vec<Flow>,
    pub(crate) notes: Notes,
}

/// Reads the capture `file`. `codec` is the wire format of the packets in it.
pub(crate) fn read(file: impl Read + Send, tcp_port: u16, codec: &CodecConfig) -> Result<Capture, String> {
    let mut flows = Flows::new(tcp_port, codec);
    let is_complete = records::for_each(file, |number, record| {
        flows.add(number, record.time_ns, segment::parse(record.link, record.data)?)
    })?;
    flows.finish(is_complete)
}

/// All flows of the capture, in the order in which they appear.
struct Flows<'a> {
    tcp_port: u16,
    codec: &'a CodecConfig,
    flows: Vec<FlowBuilder>,
    /// The index of the newest flow between two addresses.
    newest: HashMap<FlowKey, usize>,
    /// TCP segments with data to other ports, by port.
    other_ports: HashMap<u16, u64>,
    notes: Notes,
}

impl<'a> Flows<'a> {
    fn new(tcp_port: u16, codec: &'a CodecConfig) -> Self {
        Self {
            tcp_port,
            codec,
            flows: Vec::new(),
            newest: HashMap::new(),
            other_ports: HashMap::new(),
            notes: Notes::default(),
        }
    }

    /// Adds packet `number` of the capture.
    fn add(&mut self, number: u64, time_ns: u64, contents: Contents<'_>) -> Result<(), String> {
        let segment = match contents {
            Contents::Tcp(segment) => segment,
            Contents::Fragment => {
                self.notes.fragments += 1;
                return Ok(());
            }
            Contents::Cut => return Err(cut(number)),
            Contents::Other => return Ok(()),
        };
        if segment.to_port != self.tcp_port {
            if !segment.payload.is_empty() {
                *self.other_ports.entry(segment.to_port).or_default() += 1;
            }
            return Ok(());
        }
        if segment.is_cut {
            return Err(cut(number));
        }
        self.flow(&segment).add(time_ns, &segment);
        Ok(())
    }

    /// The flow of a segment. A SYN with another sequence number begins a new flow between the same addresses.
    fn flow(&mut self, segment: &Segment<'_>) -> &mut FlowBuilder {
        let next = self.flows.len();
        let index = match self.newest.entry(segment.key) {
            Entry::Occupied(entry) if self.flows[*entry.get()].continues(segment) => *entry.get(),
            Entry::Occupied(mut entry) => {
                entry.insert(next);
                next
            }
            Entry::Vacant(entry) => *entry.insert(next),
        };
        if index == next {
            self.flows.push(FlowBuilder::new(segment, self.codec));
        }
        &mut self.flows[index]
    }

    fn finish(mut self, is_complete: bool) -> Result<Capture, String> {
        self.notes.is_cut_off = !is_complete;
        let mut flows = Vec::new();
        for builder in self.flows {
            let packets = builder.finish(&mut self.notes);
            match packets.is_empty() {
                true => self.notes.without_data += 1,
                false => flows.push(Flow { packets }),
            }
        }
        if flows.is_empty() {
            return Err(nothing_to(self.tcp_port, &self.other_ports));
        }
        let all = || flows.iter().flat_map(|flow| &flow.packets);
        let first_ns = all().map(|packet| packet.offset_ns).min().unwrap_or_default();
        for flow in &mut flows {
            flow.packets.iter_mut().for_each(|packet| packet.offset_ns -= first_ns);
        }
        Ok(Capture { flows, notes: self.notes })
    }
}

fn cut(number: u64) -> String {
    format!("packet {number} was not captured to its end; capture again with 'tcpdump -s 0'")
}

/// Names the ports with the most data, because the port may be a typing error.
fn nothing_to(tcp_port: u16, others: &HashMap<u16, u64>) -> String {
    let mut others: Vec<_> = others.iter().map(|(port, count)| (u64::MAX - count, *port)).collect();
    others.sort_unstable();
    let ports: Vec<_> = others.iter().take(4).map(|(_, port)| port.to_string()).collect();
    let advice = match ports.is_empty() {
        true => "it contains no TCP data at all".to_owned(),
        false => format!("it contains data to port {}; give the port of the server", ports.join(", ")),
    };
    format!("no TCP data to port {tcp_port} was captured; {advice}")
}
