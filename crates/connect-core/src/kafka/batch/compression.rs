//! The codecs of record batches.

use std::io::Read;

use bytes::Bytes;

use super::room::Room;

const NO_ROOM: &str = "what it holds has no room";

/// Snappy as Java's library frames it: this, two versions, then blocks with their lengths.
const XERIAL_MAGIC: &[u8] = &[0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER: usize = 16;

/// Decompresses the records of a batch; `codec` is the lowest three bits of its attributes. Nothing is allocated that has
/// no room: a batch of a few KiB can hold gigabytes.
///
/// # Errors
/// The codec is not known, or the bytes are not of it, or there is no room.
pub(super) fn decompress(codec: i16, bytes: Bytes, room: &mut Room) -> Result<Bytes, String> {
    let length = bytes.len();
    let decompressed = match codec {
        0 => return Ok(bytes),
        1 => read_all("gzip", length, flate2::read::MultiGzDecoder::new(&bytes[..]), room),
        2 => snappy(&bytes, room),
        3 => read_all("lz4", length, lz4::Decoder::new(&bytes[..]).map_err(|error| format!("lz4: {error}"))?, room),
        4 => read_all("zstd", length, zstd::Decoder::new(&bytes[..]).map_err(|error| format!("zstd: {error}"))?, room),
        unknown => Err(format!("codec {unknown} is not known")),
    };
    decompressed.map(Bytes::from)
}

fn read_all(codec: &str, compressed: usize, decoder: impl Read, room: &mut Room) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(compressed.saturating_mul(3).min(room.left()));
    let read = decoder.take((room.left() as u64).saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| format!("{codec}: {error}"))?;
    room.take(bytes.len()).ok_or(NO_ROOM)?;
    Ok(bytes)
}

fn snappy(bytes: &[u8], room: &mut Room) -> Result<Vec<u8>, String> {
    let mut decompressed = Vec::new();
    if !bytes.starts_with(XERIAL_MAGIC) {
        snappy_block(bytes, &mut decompressed, room)?;
        return Ok(decompressed);
    }
    let mut rest = bytes.get(XERIAL_HEADER..).ok_or("snappy: the header is cut off")?;
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>().ok_or("snappy: a length is cut off")?;
        let length = u32::from_be_bytes(*length) as usize;
        let block = behind.get(..length).ok_or("snappy: a block is cut off")?;
        snappy_block(block, &mut decompressed, room)?;
        rest = &behind[length..];
    }
    Ok(decompressed)
}

fn snappy_block(block: &[u8], decompressed: &mut Vec<u8>, room: &mut Room) -> Result<(), String> {
    let error = |error| format!("snappy: {error}");
    let length = snap::raw::decompress_len(block).map_err(error)?;
    // A snappy block cannot expand more than about 22 times: a larger claim is not worth its allocation.
    if length > block.len().saturating_mul(64).saturating_add(64) {
        return Err("snappy: a block claims an impossible length".to_owned());
    }
    room.take(length).ok_or(NO_ROOM)?;
    let begin = decompressed.len();
    decompressed.resize(begin + length, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut decompressed[begin..]).map_err(error)?;
    decompressed.truncate(begin + written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const TEXT: &[u8] = b"the same the same the same the same the same";

    fn raw_snappy(bytes: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(bytes).expect("compressed")
    }

    /// What each codec makes of some bytes.
    fn compressed(text: &[u8]) -> Vec<(i16, Vec<u8>)> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).expect("written");
        let mut lz4 = lz4::EncoderBuilder::new().build(Vec::new()).expect("an encoder");
        lz4.write_all(text).expect("written");
        let (lz4, finished) = lz4.finish();
        finished.expect("finished");
        let mut xerial = [XERIAL_MAGIC, &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
        for half in text.chunks(text.len() / 2 + 1) {
            let block = raw_snappy(half);
            xerial.extend((block.len() as u32).to_be_bytes());
            xerial.extend(block);
        }
        vec![
            (1, gzip.finish().expect("finished")),
            (2, raw_snappy(text)),
            (2, xerial),
            (3, lz4),
            (4, zstd::encode_all(text, 1).expect("compressed")),
        ]
    }

    #[test]
    fn each_codec_gives_back_what_was_compressed() {
        for (codec, compressed) in compressed(TEXT).into_iter().chain([(0, TEXT.to_vec())]) {
            let decompressed = decompress(codec, compressed.into(), &mut Room::of(TEXT.len()));
            assert_eq!(decompressed.as_deref(), Ok(TEXT), "codec {codec}");
        }
    }

    #[test]
    fn what_has_no_room_is_not_made() {
        let zeros = vec![0; 8 << 20];
        for (codec, compressed) in compressed(&zeros) {
            let compressed = Bytes::from(compressed);
            for most in [0, 1000, zeros.len() - 1] {
                let mut room = Room::of(most);
                assert!(decompress(codec, compressed.clone(), &mut room).is_err(), "codec {codec}, room {most}");
                assert!(room.is_exceeded(), "codec {codec}, room {most}");
            }
            let mut room = Room::of(zeros.len());
            assert_eq!(decompress(codec, compressed, &mut room).map(|bytes| bytes.len()), Ok(zeros.len()));
            assert!(!room.is_exceeded() && room.left() == 0);
        }
    }

    #[test]
    fn what_is_no_such_codec_is_an_error() {
        for codec in 1..8 {
            assert!(
                decompress(codec, Bytes::from_static(&[0x82; 16]), &mut Room::of(1 << 20)).is_err(),
                "codec {codec}"
            );
        }
        let claim = Bytes::from_static(&[0xff, 0xff, 0xff, 0x7f, 0]);
        assert!(decompress(2, claim, &mut Room::of(usize::MAX)).is_err(), "a claim of 256 MiB");
    }
}
