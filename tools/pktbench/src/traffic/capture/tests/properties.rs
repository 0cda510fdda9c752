//! Any bytes can be read, with memory in proportion to the file; and frames are found however they were sent.

use super::*;
use crate::traffic::capture::Notes;
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn a_length_that_the_file_claims_reserves_no_memory() {
    let mut claims = pcap(0xa1b2_c3d4, 1, false, &[(0, vec![0; 1000])]);
    claims[24 + 8..24 + 16].fill(0xff);
    let mut block = pcapng(1, false, (6, 1_000_000), &[]);
    block.extend([6, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff]);
    block.extend(vec![0; 1000]);
    let frame = ethernet_pcap(&[sent(0, 1, 0, SYN, b""), sent(0, 1, 1, ACK, &[0xff, 0xff, 15, 0, 1, 2])]);
    for file in [claims, block, frame] {
        let info = allocation_counter::measure(|| drop(read(&file[..], PORT, &codec())));
        assert!(info.bytes_max < 1 << 20, "{info:?}");
    }
}

/// Reading must use memory in proportion to the file.
fn bounded(file: &[u8]) -> Result<(), TestCaseError> {
    let mut result = Ok(Capture::default());
    let info = allocation_counter::measure(|| result = read(file, PORT, &codec()));
    prop_assert!(info.bytes_max < (1 << 20) + 16 * file.len() as u64, "{info:?} for {} bytes", file.len());
    if let Ok(Capture { flows, .. }) = result {
        prop_assert!(!flows.is_empty());
        for Flow { packets } in flows {
            prop_assert!(!packets.is_empty());
            prop_assert!(packets.is_sorted_by_key(|packet| packet.offset_ns));
        }
    }
    Ok(())
}

fn any_segment() -> impl Strategy<Value = Sent> {
    let payload = prop_oneof![
        vec(any::<u8>(), 0..40),
        vec(0_usize..9, 0..4).prop_map(|lens| frames(&lens)),
        (0_usize..40).prop_map(|len| vec![0; len])
    ];
    (0..9 * MS, 1..3_u16, prop_oneof![0..60_u32, any::<u32>()], 0..32_u8, payload).prop_map(
        |(at_ns, from_port, sequence, flags, payload)| Sent { at_ns, from_port, sequence, flags, payload },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..600), format in 0..6_usize) {
        let mut file = match format {
            0 => Vec::new(),
            1 => pcap(0xa1b2_c3d4, 1, false, &[]),
            2 => pcap(0xa1b2_3c4d, 101, true, &[]),
            3 => pcap(0xa1b2_cd34, 113, false, &[]),
            4 => pcapng(1, false, (6, 1_000_000), &[]),
            _ => pcapng(276, true, (9, 1_000_000_000), &[]),
        };
        file.extend(bytes);
        bounded(&file)?;
    }

    #[test]
    fn any_packets_are_read_without_a_panic(
        packets in vec((0..9 * MS, vec(any::<u8>(), 0..100)), 0..9),
        link in prop::sample::select(vec![0, 1, 12, 101, 108, 113, 228, 229, 276]),
    ) {
        bounded(&pcap(0xa1b2_c3d4, link, false, &packets))?;
    }

    #[test]
    fn any_segments_are_read_without_a_panic(segments in vec(any_segment(), 0..30)) {
        bounded(&ethernet_pcap(&segments))?;
    }

    #[test]
    fn a_damaged_capture_is_read_without_a_panic(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
        len in any::<prop::sample::Index>(),
        ng: bool,
    ) {
        let of: Vec<_> =
            two_connections().iter().map(|sent| (sent.at_ns, ethernet(0x0800, &sent.ipv4()))).collect();
        let mut file = match ng {
            true => pcapng(1, false, (6, 1_000_000), &of),
            false => pcap(0xa1b2_c3d4, 1, false, &of),
        };
        for (index, byte) in damage {
            let index = index.index(file.len());
            file[index] = byte;
        }
        file.truncate(len.index(file.len() * 2));
        bounded(&file)?;
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut_and_in_whatever_order_it_comes(
        lens in vec(0_usize..50, 1..20),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
        again in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..5),
        order in any::<u64>(),
        begin: u32,
    ) {
        let bytes = frames(&lens);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let mut ranges: Vec<_> = cuts.windows(2).map(|pair| pair[0]..pair[1]).collect();
        ranges.extend(again.iter().map(|(from, len)| {
            let from = from.index(bytes.len());
            from..from + len.index(bytes.len() - from + 1)
        }));
        let key = |range: &std::ops::Range<usize>| {
            crate::traffic::random::mix(order.wrapping_add((range.start * 10_000 + range.end) as u64))
        };
        ranges.sort_by_key(key);
        let mut segments = vec![sent(0, 1, begin, SYN, b"")];
        segments.extend(ranges.into_iter().enumerate().map(|(number, range)| {
            let sequence = begin.wrapping_add(1 + range.start as u32);
            sent(number as u64 * MS, 1, sequence, ACK, &bytes[range])
        }));
        let capture = found(&segments);
        let found: Vec<_> = packets(&capture).concat().iter().map(|(_, len)| *len as usize).collect();
        prop_assert_eq!(found, lens);
        prop_assert_eq!(capture.notes, Notes::default());
    }
}
