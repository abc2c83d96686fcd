//! The typed messages of the `machine` node, and the stamp by which a receiver proves that one arrived whole.
//!
//! Every sample opens with a [`Stamp`]. The publisher sets it as the last thing before `send`: its own count
//! of messages, the time, and a checksum over all other fields. A receiver computes the same checksum over
//! the archive where it lies in shared memory; a message that is torn, mixed from two, or handed to the wrong
//! reader does not agree with its stamp.
//!
//! The sums are the same on both sides because both are made by one macro from one list of fields.

use hivemind::message;
use hivemind::rkyv::rend::{f32_le, f64_le, u32_le, u64_le};

/// Who counts what when: part of every sample.
#[message]
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Stamp {
    /// The publisher's own count of messages on this service, from 0.
    pub(crate) sequence: u64,
    /// When it was sent, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) sent_ns: u64,
    /// When the counters were read from `/proc`, by the same clock.
    pub(crate) taken_ns: u64,
    /// Over all other fields of the message, the stamp's included.
    pub(crate) checksum: u64,
}

/// What one core, or all together, did lately, each a share of 1.
#[message]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct CpuShare {
    pub(crate) user: f32,
    pub(crate) system: f32,
    /// Idle while something waited for a disk.
    pub(crate) wait: f32,
    /// Taken by the host of this virtual machine.
    pub(crate) stolen: f32,
}

/// `machine/cpu`: the processor, in total and per core.
#[message]
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CpuSample {
    pub(crate) stamp: Stamp,
    pub(crate) total: CpuShare,
    pub(crate) cores: Vec<CpuShare>,
    pub(crate) context_switches: u64,
    pub(crate) processes_started: u64,
}

/// `machine/memory`.
#[message]
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct MemorySample {
    pub(crate) stamp: Stamp,
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) available_bytes: u64,
    pub(crate) cached_bytes: u64,
    pub(crate) shared_bytes: u64,
    pub(crate) swap_total_bytes: u64,
    pub(crate) swap_free_bytes: u64,
}

/// `machine/load`.
#[message]
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LoadSample {
    pub(crate) stamp: Stamp,
    pub(crate) one_minute: f64,
    pub(crate) five_minutes: f64,
    pub(crate) fifteen_minutes: f64,
    pub(crate) runnable: u32,
    pub(crate) threads: u32,
}

/// `machine/disk/NAME`: counters since boot, and rates of late.
#[message]
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DiskSample {
    pub(crate) stamp: Stamp,
    pub(crate) device: String,
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) writes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) in_flight: u64,
    pub(crate) busy_ms: u64,
    pub(crate) read_bytes_per_second: f64,
    pub(crate) written_bytes_per_second: f64,
}

/// `machine/net/NAME`: counters since boot, and rates of late.
#[message]
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NetSample {
    pub(crate) stamp: Stamp,
    pub(crate) interface: String,
    pub(crate) received_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) sent_packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
    pub(crate) received_bytes_per_second: f64,
    pub(crate) sent_bytes_per_second: f64,
}

/// A running sum over the words of a message. Not cryptographic: it finds accidents, not attacks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digest(u64);

impl Digest {
    /// The sum of nothing.
    pub(crate) fn new() -> Digest {
        Digest(0x9e37_79b9_7f4a_7c15)
    }

    /// Adds one word. The order of the words counts.
    pub(crate) fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.0 ^= self.0 >> 32;
    }

    /// Adds a text with its length, so that two texts in a row cannot trade characters.
    pub(crate) fn add_text(&mut self, text: &str) {
        self.add(text.len() as u64);
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    /// The sum of all that was added.
    pub(crate) fn sum(self) -> u64 {
        self.0
    }
}

/// A number as the bits that are summed: the same for a native field and for the archived one.
trait Word {
    fn word(&self) -> u64;
}

macro_rules! words {
    ($($native:ty, $archived:ty => $bits:expr);* $(;)?) => {
        $(impl Word for $native {
            fn word(&self) -> u64 {
                ($bits)(*self)
            }
        }
        impl Word for $archived {
            fn word(&self) -> u64 {
                ($bits)(self.to_native())
            }
        })*
    };
}

words! {
    u64, u64_le => |value: u64| value;
    u32, u32_le => |value: u32| u64::from(value);
    f64, f64_le => |value: f64| value.to_bits();
    f32, f32_le => |value: f32| u64::from(value.to_bits());
}

/// What a receiver reads from the stamp of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) sequence: u64,
    pub(crate) sent_ns: u64,
    /// Whether the checksum agrees with the fields.
    pub(crate) whole: bool,
}

/// A sample that its publisher can stamp.
pub(crate) trait Seal {
    /// Sets the stamp, checksum included. Nothing may be changed between this and `send`.
    fn seal(&mut self, sequence: u64, sent_ns: u64, taken_ns: u64);
}

/// An archived sample that its receiver can check.
pub(crate) trait Verify {
    /// Computes the checksum where the message lies and compares it with the stamp.
    fn verify(&self) -> Verified;
}

macro_rules! stamped {
    ($native:ty, $archived:ty, |$sample:ident, $digest:ident| $body:block) => {
        impl Seal for $native {
            fn seal(&mut self, sequence: u64, sent_ns: u64, taken_ns: u64) {
                self.stamp = Stamp { sequence, sent_ns, taken_ns, checksum: 0 };
                let ($sample, mut $digest) = (&*self, stamp_digest(sequence, sent_ns, taken_ns));
                $body
                self.stamp.checksum = $digest.sum();
            }
        }
        impl Verify for $archived {
            fn verify(&self) -> Verified {
                let sequence = self.stamp.sequence.to_native();
                let sent_ns = self.stamp.sent_ns.to_native();
                let ($sample, mut $digest) = (self, stamp_digest(sequence, sent_ns, self.stamp.taken_ns.to_native()));
                $body
                Verified { sequence, sent_ns, whole: $digest.sum() == self.stamp.checksum.to_native() }
            }
        }
    };
}

fn stamp_digest(sequence: u64, sent_ns: u64, taken_ns: u64) -> Digest {
    let mut digest = Digest::new();
    for word in [sequence, sent_ns, taken_ns] {
        digest.add(word);
    }
    digest
}

stamped!(CpuSample, ArchivedCpuSample, |sample, digest| {
    digest.add(sample.cores.len() as u64);
    for share in std::iter::once(&sample.total).chain(sample.cores.iter()) {
        for word in [share.user.word(), share.system.word(), share.wait.word(), share.stolen.word()] {
            digest.add(word);
        }
    }
    digest.add(sample.context_switches.word());
    digest.add(sample.processes_started.word());
});

stamped!(MemorySample, ArchivedMemorySample, |sample, digest| {
    for field in [
        &sample.total_bytes,
        &sample.free_bytes,
        &sample.available_bytes,
        &sample.cached_bytes,
        &sample.shared_bytes,
        &sample.swap_total_bytes,
        &sample.swap_free_bytes,
    ] {
        digest.add(field.word());
    }
});

stamped!(LoadSample, ArchivedLoadSample, |sample, digest| {
    for field in [&sample.one_minute, &sample.five_minutes, &sample.fifteen_minutes] {
        digest.add(field.word());
    }
    digest.add(sample.runnable.word());
    digest.add(sample.threads.word());
});

stamped!(DiskSample, ArchivedDiskSample, |sample, digest| {
    digest.add_text(sample.device.as_str());
    for field in [
        &sample.reads,
        &sample.read_bytes,
        &sample.writes,
        &sample.written_bytes,
        &sample.in_flight,
        &sample.busy_ms,
    ] {
        digest.add(field.word());
    }
    digest.add(sample.read_bytes_per_second.word());
    digest.add(sample.written_bytes_per_second.word());
});

stamped!(NetSample, ArchivedNetSample, |sample, digest| {
    digest.add_text(sample.interface.as_str());
    for field in [
        &sample.received_bytes,
        &sample.received_packets,
        &sample.sent_bytes,
        &sample.sent_packets,
        &sample.errors,
        &sample.dropped,
    ] {
        digest.add(field.word());
    }
    digest.add(sample.received_bytes_per_second.word());
    digest.add(sample.sent_bytes_per_second.word());
});

#[cfg(test)]
mod tests {
    use hivemind::rkyv::{access, rancor, to_bytes};

    use super::*;

    fn cpu() -> CpuSample {
        let share = CpuShare { user: 0.25, system: 0.125, wait: 0.0, stolen: 0.5 };
        CpuSample { cores: vec![share; 3], total: share, context_switches: 7, ..CpuSample::default() }
    }

    #[test]
    fn a_sealed_sample_verifies_in_its_archive() {
        let mut sample = cpu();
        sample.seal(5, 1000, 900);
        let bytes = to_bytes::<rancor::Error>(&sample).unwrap();
        let verified = access::<ArchivedCpuSample, rancor::Error>(&bytes).unwrap().verify();
        assert_eq!(verified, Verified { sequence: 5, sent_ns: 1000, whole: true });
    }

    #[test]
    fn a_sample_with_one_changed_field_is_not_whole() {
        let mut sample = cpu();
        sample.seal(5, 1000, 900);
        sample.cores[2].system = 0.126;
        let bytes = to_bytes::<rancor::Error>(&sample).unwrap();
        assert!(!access::<ArchivedCpuSample, rancor::Error>(&bytes).unwrap().verify().whole);
    }

    #[test]
    fn every_sample_type_verifies_after_sealing_and_not_after_a_change() {
        macro_rules! check {
            ($sample:expr, $archived:ty, $field:ident) => {
                let mut sample = $sample;
                sample.seal(1, 2, 3);
                let bytes = to_bytes::<rancor::Error>(&sample).unwrap();
                assert!(access::<$archived, rancor::Error>(&bytes).unwrap().verify().whole);
                sample.$field = Default::default();
                let bytes = to_bytes::<rancor::Error>(&sample).unwrap();
                assert!(!access::<$archived, rancor::Error>(&bytes).unwrap().verify().whole);
            };
        }
        check!(
            MemorySample { cached_bytes: 9, ..MemorySample::default() },
            ArchivedMemorySample,
            cached_bytes
        );
        check!(LoadSample { threads: 9, ..LoadSample::default() }, ArchivedLoadSample, threads);
        check!(DiskSample { device: "vda".into(), ..DiskSample::default() }, ArchivedDiskSample, device);
        check!(NetSample { dropped: 9, ..NetSample::default() }, ArchivedNetSample, dropped);
    }

    #[test]
    fn two_texts_cannot_trade_characters() {
        let sum = |texts: [&str; 2]| {
            let mut digest = Digest::new();
            texts.into_iter().for_each(|text| digest.add_text(text));
            digest.sum()
        };
        assert_ne!(sum(["ab", "c"]), sum(["a", "bc"]));
    }
}
