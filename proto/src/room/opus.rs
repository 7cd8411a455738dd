//! The shape of an Opus packet (RFC 6716 section 3), without decoding it.
//!
//! A malformed packet closes a browser's decoder, so one speaker's garbage would silence a
//! listener; it is refused at the origin instead.

/// Bytes of one Opus frame within a packet at most (RFC 6716 section 3.4, R2).
const FRAME_MOST: usize = 1275;
/// What every packet of a speaker lasts, in units of 2.5 ms.
const TWENTY_MS: usize = 8;

/// Whether `packet` is a well-formed Opus packet of 20 ms in total (RFC 6716 section 3.4, R1 to
/// R7). A packet of one byte (a pause, DTX) is well formed.
#[must_use]
pub fn is_opus_20ms(packet: &[u8]) -> bool {
    let Some((&toc, body)) = packet.split_first() else {
        return false;
    };
    let count = match toc & 0x03 {
        0 => (body.len() <= FRAME_MOST).then_some(1),
        1 => (body.len() % 2 == 0 && body.len() / 2 <= FRAME_MOST).then_some(2),
        2 => two_frames(body),
        _ => many_frames(body),
    };
    count.is_some_and(|count| count * frame_units(toc >> 3) == TWENTY_MS)
}

/// What one frame of a configuration lasts, in units of 2.5 ms (RFC 6716 table 2).
fn frame_units(config: u8) -> usize {
    let last = usize::from(config & 0x03);
    match config {
        0..=11 => [4, 8, 16, 24][last],
        12..=15 => [4, 8][last & 1],
        _ => [1, 2, 4, 8][last],
    }
}

/// Code 2: two frames of different lengths.
fn two_frames(body: &[u8]) -> Option<usize> {
    let (first, rest) = frame_len(body)?;
    let second = rest.len().checked_sub(first)?;
    (second <= FRAME_MOST).then_some(2)
}

/// Code 3: a count of frames, perhaps padding, perhaps a length for each frame.
fn many_frames(body: &[u8]) -> Option<usize> {
    let (&head, mut rest) = body.split_first()?;
    let count = usize::from(head & 0x3f);
    if count == 0 {
        return None;
    }
    if head & 0x40 != 0 {
        rest = without_padding(rest)?;
    }
    if head & 0x80 == 0 {
        let even = rest.len() % count == 0 && rest.len() / count <= FRAME_MOST;
        return even.then_some(count);
    }
    let mut taken = 0;
    for _ in 1..count {
        let (len, after) = frame_len(rest)?;
        taken += len;
        rest = after;
    }
    let last = rest.len().checked_sub(taken)?;
    (last <= FRAME_MOST).then_some(count)
}

/// Removes the padding's length from the front and the padding from the end.
fn without_padding(mut rest: &[u8]) -> Option<&[u8]> {
    let mut padding = 0;
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        if byte < 255 {
            padding += usize::from(byte);
            return rest.get(..rest.len().checked_sub(padding)?);
        }
        padding += 254;
    }
}

/// Reads a frame's length of one or two bytes (RFC 6716 section 3.2.1).
fn frame_len(body: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = body.split_first()?;
    if first < 252 {
        return Some((usize::from(first), rest));
    }
    let (&second, rest) = rest.split_first()?;
    Some((4 * usize::from(second) + usize::from(first), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toc(config: u8, code: u8) -> u8 {
        (config << 3) | code
    }

    #[test]
    fn takes_whatever_lasts_twenty_milliseconds() {
        // SILK wideband, hybrid fullband and CELT fullband: one frame of 20 ms.
        for config in [1, 5, 9, 13, 15, 19, 23, 27, 31] {
            assert!(is_opus_20ms(&[toc(config, 0), 1, 2, 3]), "{config}");
            assert!(is_opus_20ms(&[toc(config, 0)]), "{config}");
        }
        // Two frames of 10 ms: equal, unequal, counted.
        assert!(is_opus_20ms(&[toc(30, 1), 1, 2, 3, 4]));
        assert!(is_opus_20ms(&[toc(30, 2), 1, 9, 8, 8]));
        assert!(is_opus_20ms(&[toc(30, 3), 2, 1, 2]));
        // Eight of 2.5 ms with a length each, the last one implied.
        assert!(is_opus_20ms(&[toc(28, 3), 0x88, 0, 0, 0, 0, 0, 0, 1, 9, 7]));
        // One of 20 ms with two bytes of padding.
        assert!(is_opus_20ms(&[toc(31, 3), 0x41, 2, 7, 0, 0]));
    }

    #[test]
    fn refuses_other_durations_and_broken_packets() {
        for bad in [
            &[][..],
            &[toc(0, 0), 1],               // 10 ms
            &[toc(2, 0), 1],               // 40 ms
            &[toc(3, 0), 1],               // 60 ms
            &[toc(31, 1), 1, 2],           // 2 × 20 ms
            &[toc(30, 1), 1, 2, 3],        // two equal frames of three bytes
            &[toc(30, 2)],                 // no length
            &[toc(30, 2), 252],            // half a length
            &[toc(30, 2), 5, 1, 2],        // the first frame is longer than the packet
            &[toc(31, 3)],                 // no count
            &[toc(31, 3), 0],              // no frame
            &[toc(31, 3), 0x41],           // no padding length
            &[toc(31, 3), 0x41, 9, 1],     // more padding than bytes
            &[toc(31, 3), 0x41, 255, 255], // padding that never ends
            &[toc(30, 3), 2, 1, 2, 3],     // not a multiple
            &[toc(28, 3), 0x88, 0, 0],     // lengths cut short
        ] {
            assert!(!is_opus_20ms(bad), "{bad:?}");
        }
        let mut long = vec![0; 1300];
        long[0] = toc(31, 0);
        assert!(!is_opus_20ms(&long));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(packet in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let _ = is_opus_20ms(&packet);
        }
    }
}
