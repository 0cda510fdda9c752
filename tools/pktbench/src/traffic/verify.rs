//! Checks the packets that come back on a connection: intact, in order and exactly once.
//!
//! ```text
//!   sent                 0  1  2  3  4  5  6  7  8
//!   came back            0  1     3  4
//!                              ^           ^
//!                       overtaken: 2       expected: 5 6 7 8, in this order
//! ```
//!
//! A packet that comes back before older ones overtakes them. An overtaken packet that comes back later is reordered,
//! as in RFC 4737; if it never comes back it is lost. A packet that equals no outstanding packet is a duplicate if it
//! equals one that was already answered. Otherwise it counts as the corrupted answer to the next expected packet.
//!
//! Packets of less than 8 bytes and those of `--payload` may be equal. A fault of such a packet may be counted as another
//! kind of fault, and two equal packets that change places go unnoticed. The counts still add up, and the run still fails.
//! If a packet comes back twice and equals all later ones, the one too many is the last one. So the connection is read to
//! its end after the load.
//!
//! Nothing here reads a socket or a clock.

use std::collections::VecDeque;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::traffic::payload::PayloadSequence;

/// How many answered packets are searched to tell a duplicate from a corrupted packet. Only faulty packets are searched
/// for, so this costs nothing in a sound run.
pub(crate) const HISTORY_LEN: u64 = 1024;

/// How much of a packet that comes back is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verify {
    /// Every byte.
    Full,
    /// Only the length; packets of the same length are not distinguished.
    Len,
    /// Nothing; packets are only counted.
    Off,
}

impl Verify {
    fn is_same(self, sent: &[u8], received: &[u8]) -> bool {
        match self {
            Self::Full => sent == received,
            Self::Len => sent.len() == received.len(),
            Self::Off => true,
        }
    }
}

/// Checks the packets of one connection. `T` is a value that the caller attaches to each packet, and gets back with the
/// answer.
pub(crate) struct Verifier<T> {
    payloads: PayloadSequence,
    verify: Verify,
    /// Outstanding packets that were not overtaken, in the order in which they must come back. The last one has the
    /// number `next - 1`.
    expected: VecDeque<Outstanding<T>>,
    /// Outstanding packets that were overtaken.
    overtaken: Vec<Outstanding<T>>,
    /// The number of the next packet to send.
    next: u64,
    integrity: Integrity,
}

struct Outstanding<T> {
    payload: &'static [u8],
    context: T,
}

/// The result of checking a packet, with the context of the packet that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement<T> {
    /// Intact and not overtaken.
    Verified(T),
    /// Intact, but it came back after a packet that was sent later.
    Reordered(T),
    /// Different bytes than were sent.
    Corrupted(T),
    /// The packet was already answered, or nothing was outstanding.
    Duplicated,
}

impl<T: Copy> Judgement<T> {
    /// The context of the answered packet. `None` for a duplicate.
    pub(crate) fn context(&self) -> Option<T> {
        match *self {
            Self::Verified(context) | Self::Reordered(context) | Self::Corrupted(context) => Some(context),
            Self::Duplicated => None,
        }
    }
}

/// What happened to the packets. The sent packets are the sum of all counts without `duplicated`. The received packets
/// are the sum of `verified`, `corrupted`, `reordered` and `duplicated`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Integrity {
    pub(crate) verified: u64,
    #[serde(alias = "altered")]
    pub(crate) corrupted: u64,
    pub(crate) reordered: u64,
    #[serde(alias = "doubled")]
    pub(crate) duplicated: u64,
    /// Overtaken by a later packet, and never received.
    pub(crate) lost: u64,
    /// Outstanding when the connection failed, the wait for answers was over, or the run was interrupted.
    pub(crate) unanswered: u64,
}

impl<T> Verifier<T> {
    pub(crate) fn new(payloads: PayloadSequence, verify: Verify) -> Self {
        Self {
            payloads,
            verify,
            expected: VecDeque::new(),
            overtaken: Vec::new(),
            next: 0,
            integrity: Integrity::default(),
        }
    }

    /// The payload that is sent `ahead` packets after the next one. It becomes outstanding when [`sent`](Self::sent) is
    /// called for it.
    pub(crate) fn upcoming(&self, ahead: usize) -> &'static [u8] {
        self.payloads.payload(self.next + ahead as u64)
    }

    /// Marks the next packet as sent, and returns its payload.
    pub(crate) fn sent(&mut self, context: T) -> &'static [u8] {
        let payload = self.upcoming(0);
        self.next += 1;
        self.expected.push_back(Outstanding { payload, context });
        payload
    }

    /// Whether no packet was sent yet.
    pub(crate) fn is_unused(&self) -> bool {
        self.next == 0
    }

    /// The number of packets that have not come back.
    pub(crate) fn outstanding(&self) -> usize {
        self.expected.len() + self.overtaken.len()
    }

    /// Checks a packet that came back.
    pub(crate) fn receive(&mut self, payload: &[u8]) -> Judgement<T> {
        // The normal case, which must be fast.
        if self.expected.front().is_some_and(|next| self.verify.is_same(next.payload, payload)) {
            self.integrity.verified += 1;
            return Judgement::Verified(self.answer_expected(0));
        }
        self.receive_unexpected(payload)
    }

    #[cold]
    fn receive_unexpected(&mut self, payload: &[u8]) -> Judgement<T> {
        let verify = self.verify;
        let is_same = |packet: &Outstanding<T>| verify.is_same(packet.payload, payload);
        if let Some(index) = self.expected.iter().position(is_same) {
            self.integrity.verified += 1;
            return Judgement::Verified(self.answer_expected(index));
        }
        if let Some(index) = self.overtaken.iter().position(is_same) {
            self.integrity.reordered += 1;
            return Judgement::Reordered(self.overtaken.remove(index).context);
        }
        if self.outstanding() == 0 || self.was_answered(payload) {
            self.integrity.duplicated += 1;
            return Judgement::Duplicated;
        }
        self.integrity.corrupted += 1;
        Judgement::Corrupted(match self.expected.is_empty() {
            false => self.answer_expected(0),
            true => self.overtaken.remove(0).context,
        })
    }

    /// Removes the expected packet at `index`. The packets before it are overtaken.
    fn answer_expected(&mut self, index: usize) -> T {
        self.overtaken.extend(self.expected.drain(..index));
        let answered = self.expected.pop_front();
        answered.expect("the caller found a packet at this index").context
    }

    fn was_answered(&self, payload: &[u8]) -> bool {
        let end = self.next - self.expected.len() as u64;
        let start = end.saturating_sub(self.history_len(payload.len()));
        (start..end).any(|number| self.verify.is_same(self.payloads.payload(number), payload))
    }

    /// How many answered packets are searched for a duplicate of `len` bytes. If packets may be equal only the last one
    /// is searched. Otherwise every corrupted packet would equal some earlier one.
    fn history_len(&self, len: usize) -> u64 {
        if self.verify == Verify::Full && self.payloads.are_distinct(len) { HISTORY_LEN } else { 1 }
    }

    /// The contexts of the packets that have not come back.
    pub(crate) fn outstanding_contexts(&self) -> impl Iterator<Item = &T> {
        self.expected.iter().chain(&self.overtaken).map(|packet| &packet.context)
    }

    /// The context of the outstanding packet that was sent first.
    pub(crate) fn oldest(&self) -> Option<&T> {
        // Overtaken packets were sent before the expected ones.
        self.overtaken.first().or(self.expected.front()).map(|packet| &packet.context)
    }

    /// Ends the check of a connection: nothing more comes back on it. The next connection goes on with the next packet.
    pub(crate) fn settle(&mut self) -> Integrity {
        // A connection keeps the order, so an overtaken packet is lost. Whether the others would still have come back is
        // unknown.
        self.integrity.lost += self.overtaken.len() as u64;
        self.integrity.unanswered += self.expected.len() as u64;
        self.overtaken.clear();
        self.expected.clear();
        std::mem::take(&mut self.integrity)
    }
}

impl Integrity {
    /// The number of packets that were sent.
    pub(crate) fn sent(&self) -> u64 {
        let Self { verified, corrupted, reordered, lost, unanswered, duplicated: _ } = self;
        [verified, corrupted, reordered, lost, unanswered]
            .into_iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The number of packets that came back damaged, in the wrong order or twice, or were overtaken and never came back.
    pub(crate) fn violations(&self) -> u64 {
        let Self { corrupted, reordered, duplicated, lost, .. } = self;
        [corrupted, reordered, duplicated, lost].into_iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// Saturating: a document from a file may contain any numbers.
impl std::ops::AddAssign for Integrity {
    fn add_assign(&mut self, other: Self) {
        let Self { verified, corrupted, reordered, duplicated, lost, unanswered } = other;
        self.verified = self.verified.saturating_add(verified);
        self.corrupted = self.corrupted.saturating_add(corrupted);
        self.reordered = self.reordered.saturating_add(reordered);
        self.duplicated = self.duplicated.saturating_add(duplicated);
        self.lost = self.lost.saturating_add(lost);
        self.unanswered = self.unanswered.saturating_add(unanswered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;

    use crate::traffic::own_payloads::OwnPayloads;
    use crate::traffic::payload::PayloadBlock;
    use crate::traffic::sizes::Distribution;
    use Judgement::{Corrupted, Duplicated, Reordered, Verified};
    use proptest::collection::vec;
    use proptest::prelude::*;

    const LONG: Distribution = Distribution::Uniform { min_len: 8, max_len: 64 };

    /// One block for all tests, because blocks are leaked.
    fn block() -> PayloadBlock {
        static BLOCK: OnceLock<PayloadBlock> = OnceLock::new();
        *BLOCK.get_or_init(|| PayloadBlock::new(LONG.max_len(), 1))
    }

    /// A verifier with packets 0 to `sent - 1` outstanding, and their payloads. The context of a packet is its number.
    fn verifier(sizes: Distribution, sent: u64) -> (Verifier<u64>, Vec<Vec<u8>>) {
        verifier_with(Verify::Full, sizes, sent)
    }

    fn verifier_with(verify: Verify, sizes: Distribution, sent: u64) -> (Verifier<u64>, Vec<Vec<u8>>) {
        let mut verifier = Verifier::new(PayloadSequence::new(block(), sizes, 1, 0, 1), verify);
        let mut payloads = Vec::new();
        for number in 0..sent {
            let payload = verifier.sent(number);
            payloads.push(payload.to_vec());
        }
        (verifier, payloads)
    }

    fn receive_all(verifier: &mut Verifier<u64>, payloads: &[Vec<u8>]) -> Vec<Judgement<u64>> {
        payloads.iter().map(|payload| verifier.receive(payload)).collect()
    }

    #[test]
    fn an_intact_packet_in_order_is_verified() {
        let (mut verifier, payloads) = verifier(Distribution::Uniform { min_len: 0, max_len: 64 }, 200);
        let judgements = receive_all(&mut verifier, &payloads);
        assert!(judgements.into_iter().eq((0..200).map(Verified)));
        assert_eq!(verifier.outstanding(), 0);
        assert_eq!(verifier.settle(), Integrity { verified: 200, ..Integrity::default() });
    }

    #[test]
    fn a_dropped_packet_is_overtaken_and_then_lost() {
        let (mut verifier, mut payloads) = verifier(LONG, 4);
        payloads.remove(1);
        assert_eq!(receive_all(&mut verifier, &payloads), [Verified(0), Verified(2), Verified(3)]);
        assert_eq!(verifier.outstanding(), 1);
        assert_eq!(verifier.settle(), Integrity { verified: 3, lost: 1, ..Integrity::default() });
    }

    #[test]
    fn a_packet_that_no_later_one_has_overtaken_is_unanswered() {
        let (mut verifier, payloads) = verifier(LONG, 3);
        verifier.receive(&payloads[0]);
        let expected = Integrity { verified: 1, unanswered: 2, ..Integrity::default() };
        assert_eq!(verifier.settle(), expected);
        assert_eq!(expected.violations(), 0);
    }

    #[test]
    fn of_two_swapped_packets_the_one_that_comes_late_is_reordered() {
        let (mut verifier, mut payloads) = verifier(LONG, 4);
        payloads.swap(1, 2);
        assert_eq!(
            receive_all(&mut verifier, &payloads),
            [Verified(0), Verified(2), Reordered(1), Verified(3)]
        );
        assert_eq!(verifier.settle(), Integrity { verified: 3, reordered: 1, ..Integrity::default() });
    }

    #[test]
    fn a_packet_that_comes_twice_is_a_duplicate_at_any_later_time() {
        for again_at in [2, 3, 4] {
            let (mut verifier, mut payloads) = verifier(LONG, 4);
            payloads.insert(again_at, payloads[1].clone());
            let judgements = receive_all(&mut verifier, &payloads);
            assert_eq!(judgements[again_at], Duplicated, "again at {again_at}");
            assert_eq!(verifier.settle(), Integrity { verified: 4, duplicated: 1, ..Integrity::default() });
        }
    }

    #[test]
    fn a_packet_without_a_request_is_a_duplicate() {
        let (mut verifier, payloads) = verifier(LONG, 1);
        verifier.receive(&payloads[0]);
        assert_eq!(verifier.receive(b"what is this?"), Duplicated);
    }

    #[test]
    fn any_flipped_bit_is_a_corrupted_packet() {
        let (_, payloads) = verifier(LONG, 3);
        for byte in 0..payloads[1].len() {
            for bit in 0..8 {
                let (mut verifier, mut payloads) = verifier(LONG, 3);
                payloads[1][byte] ^= 1 << bit;
                let judgements = receive_all(&mut verifier, &payloads);
                assert_eq!(judgements, [Verified(0), Corrupted(1), Verified(2)], "bit {bit} of byte {byte}");
                assert_eq!(
                    verifier.settle(),
                    Integrity { verified: 2, corrupted: 1, ..Integrity::default() }
                );
            }
        }
    }

    #[test]
    fn a_packet_with_another_length_is_corrupted() {
        let len = verifier(LONG, 3).1[1].len();
        for new_len in (0..len).chain([len + 1]) {
            let (mut verifier, mut payloads) = verifier(LONG, 3);
            payloads[1].resize(new_len, 0);
            let judgements = receive_all(&mut verifier, &payloads);
            assert_eq!(judgements, [Verified(0), Corrupted(1), Verified(2)], "{len} bytes cut to {new_len}");
        }
    }

    #[test]
    fn a_packet_of_another_connection_is_corrupted() {
        let (mut verifier, _) = verifier(LONG, 1);
        let other = PayloadSequence::new(block(), LONG, 1, 1, 2).payload(0);
        assert_eq!(verifier.receive(other), Corrupted(0));
    }

    #[test]
    fn a_corrupted_packet_does_not_answer_an_earlier_dropped_one() {
        let (mut verifier, mut payloads) = verifier(LONG, 4);
        payloads[2][0] ^= 1;
        payloads[3][0] ^= 1;
        payloads.remove(0);
        assert_eq!(receive_all(&mut verifier, &payloads), [Verified(1), Corrupted(2), Corrupted(3)]);
        let expected = Integrity { verified: 1, corrupted: 2, lost: 1, ..Integrity::default() };
        assert_eq!(verifier.settle(), expected);
    }

    #[test]
    fn an_overtaken_corrupted_packet_is_corrupted() {
        let (mut verifier, mut payloads) = verifier(LONG, 2);
        payloads.swap(0, 1);
        payloads[1][0] ^= 1;
        assert_eq!(receive_all(&mut verifier, &payloads), [Verified(1), Corrupted(0)]);
        assert_eq!(verifier.outstanding(), 0);
    }

    #[test]
    fn empty_packets_are_counted() {
        let sizes = Distribution::Uniform { min_len: 0, max_len: 0 };
        let (mut one_missing, payloads) = verifier(sizes, 5);
        receive_all(&mut one_missing, &payloads[1..]);
        assert_eq!(one_missing.settle(), Integrity { verified: 4, unanswered: 1, ..Integrity::default() });
        let (mut one_more, payloads) = verifier(sizes, 5);
        receive_all(&mut one_more, &payloads);
        assert_eq!(one_more.receive(b""), Duplicated);
    }

    #[test]
    fn a_duplicate_is_recognized_after_many_other_packets() {
        let (mut verifier, payloads) = verifier(LONG, HISTORY_LEN);
        receive_all(&mut verifier, &payloads);
        let upcoming = verifier.sent(HISTORY_LEN);
        assert_eq!(verifier.receive(&payloads[1]), Duplicated);
        assert_eq!(verifier.receive(upcoming), Verified(HISTORY_LEN));
    }

    #[test]
    fn checking_only_lengths_finds_lost_cut_and_duplicated_packets_but_no_corrupted_bytes() {
        let settled = |wrong: fn(&mut Vec<Vec<u8>>)| {
            let (mut verifier, mut payloads) = verifier_with(Verify::Len, LONG, 6);
            assert!(payloads.windows(2).all(|pair| pair[0].len() != pair[1].len()));
            wrong(&mut payloads);
            receive_all(&mut verifier, &payloads);
            verifier.settle()
        };
        let expected = Integrity { verified: 5, ..Integrity::default() };
        assert_eq!(settled(|payloads| payloads[2][0] ^= 1), Integrity { verified: 6, ..expected });
        assert_eq!(settled(|payloads| drop(payloads.remove(2))), Integrity { lost: 1, ..expected });
        assert_eq!(settled(|payloads| payloads[2].resize(99, 0)), Integrity { corrupted: 1, ..expected });
        let twice = settled(|payloads| payloads.insert(3, payloads[2].clone()));
        assert_eq!(twice, Integrity { verified: 6, duplicated: 1, ..expected });
    }

    #[test]
    fn without_verification_packets_are_counted() {
        for (received, unanswered, duplicated) in [(6, 0, 0), (5, 1, 0), (7, 0, 1)] {
            let (mut verifier, mut payloads) = verifier_with(Verify::Off, LONG, 6);
            payloads.resize(received, Vec::new());
            payloads.reverse();
            receive_all(&mut verifier, &payloads);
            let verified = received.min(6) as u64;
            let expected = Integrity { verified, unanswered, duplicated, ..Integrity::default() };
            assert_eq!(verifier.settle(), expected);
        }
    }

    #[test]
    fn the_counts_add_up_to_the_packets_sent_and_to_the_packets_received() {
        for round in 0..200_usize {
            let sizes = Distribution::Uniform { min_len: 0, max_len: if round % 2 == 0 { 3 } else { 64 } };
            let (mut verifier, mut payloads) = verifier(sizes, 20);
            let at = |step: usize| (round * 7 + step * 13) % 18;
            payloads.swap(at(0), at(1));
            payloads.insert(at(2), payloads[at(3)].clone());
            payloads[at(4)].push(0);
            payloads.remove(at(5));
            payloads.truncate(20 - round % 3);
            let came_back = payloads.len() as u64;
            receive_all(&mut verifier, &payloads);
            let all = verifier.settle();
            let sent = all.verified + all.corrupted + all.reordered + all.lost + all.unanswered;
            assert_eq!(sent, 20, "round {round}: {all:?}");
            assert_eq!(all.verified + all.corrupted + all.reordered + all.duplicated, came_back, "{all:?}");
            assert!(all.violations() > 0);
        }
    }

    /// A verifier of these payloads, which are repeated.
    fn verifier_of(payloads: &[Vec<u8>]) -> Verifier<u64> {
        let own =
            OwnPayloads::new("", payloads.iter().map(|payload| &*payload.clone().leak()).collect(), |_| {
                String::new()
            });
        let sizes = Distribution::Own(own);
        Verifier::new(PayloadSequence::new(block(), sizes, 1, 0, 1), Verify::Full)
    }

    #[test]
    fn a_fault_of_one_of_a_thousand_equal_packets_is_counted() {
        let payload = b"always the same".to_vec();
        let intact = Integrity { verified: 1000, ..Integrity::default() };
        for (came_back, expected) in [
            (vec![payload.clone(); 1000], intact),
            (vec![payload.clone(); 999], Integrity { verified: 999, unanswered: 1, ..intact }),
            (vec![payload.clone(); 1001], Integrity { duplicated: 1, ..intact }),
            (
                [vec![payload.clone(); 500], vec![b"other".to_vec()], vec![payload.clone(); 499]].concat(),
                Integrity { verified: 999, corrupted: 1, ..intact },
            ),
        ] {
            let mut verifier = verifier_of(std::slice::from_ref(&payload));
            for number in 0..1000 {
                verifier.sent(number);
            }
            receive_all(&mut verifier, &came_back);
            assert_eq!(verifier.settle(), expected);
        }
    }

    #[test]
    fn a_duplicate_of_distinct_payloads_is_recognized_among_many_and_a_damaged_one_is_not_called_one() {
        let payloads: Vec<Vec<u8>> =
            (0..50).map(|number| format!("payload {number:2}").into_bytes()).collect();
        let mut verifier = verifier_of(&payloads);
        for number in 0..40 {
            verifier.sent(number);
        }
        receive_all(&mut verifier, &payloads[..30]);
        assert_eq!(verifier.receive(&payloads[3]), Duplicated);
        assert_eq!(verifier.receive(b"damaged one"), Corrupted(30));
    }

    proptest! {
        /// The packets that come back are those that were sent, except for any number of faults.
        #[test]
        fn faults_of_equal_packets_are_never_uncounted_and_a_sound_server_never_fails(
            // Few different bytes: many payloads are equal, and damaged ones equal others.
            payloads in vec(vec(0..2_u8, 0..3), 1..5),
            window in 1..9_usize,
            faults in vec((0..60_usize, 0..4_u8), 0..4),
        ) {
            let mut verifier = verifier_of(&payloads);
            let (mut sent, mut came_back) = (Vec::new(), Vec::new());
            // Packets on their way back. A packet is sent while fewer than `window` are outstanding.
            let mut on_the_way = VecDeque::new();
            while sent.len() < 60 || !on_the_way.is_empty() {
                while sent.len() < 60 && verifier.outstanding() < window {
                    let (number, payload) = (sent.len(), verifier.sent(sent.len() as u64).to_vec());
                    sent.push(payload.clone());
                    match faults.iter().find(|(at, _)| *at == number).map(|(_, kind)| kind) {
                        None => on_the_way.push_back(payload),
                        Some(0) => {}
                        Some(1) => on_the_way.extend([payload.clone(), payload]),
                        Some(2) => on_the_way.push_back([&payload[..], &[1]].concat()),
                        Some(_) => on_the_way.push_front(payload),
                    }
                }
                match on_the_way.pop_front() {
                    Some(payload) => {
                        verifier.receive(&payload);
                        came_back.push(payload);
                    }
                    // All outstanding packets are lost: the run ends with its timeout.
                    None => break,
                }
            }
            let sent_count = sent.len() as u64;
            let is_intact = came_back == sent;
            let all = verifier.settle();
            prop_assert_eq!(
                all.verified + all.corrupted + all.reordered + all.lost + all.unanswered, sent_count
            );
            prop_assert_eq!(
                all.verified + all.corrupted + all.reordered + all.duplicated, came_back.len() as u64
            );
            prop_assert_eq!(all.violations() + all.unanswered == 0, is_intact, "{:?}", all);
        }
    }
}
