//! The codecs of record batches.

use std::io::Read;

use bytes::Bytes;

/// A batch that decompresses to more is taken for damaged or hostile.
pub const MAX_DECOMPRESSED: usize = 512 << 20;

/// Snappy as Java's library frames it: this, two versions, then blocks with their lengths.
const XERIAL_MAGIC: &[u8] = &[0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER: usize = 16;

/// Decompresses the records of a batch; `codec` is the lowest three bits of its attributes.
///
/// # Errors
/// The codec is not known, or the bytes are not of it, or there are too many.
pub(super) fn decompress(codec: i16, bytes: Bytes) -> Result<Bytes, String> {
    let decompressed = match codec {
        0 => return Ok(bytes),
        1 => read_all("gzip", bytes.len(), flate2::read::MultiGzDecoder::new(&bytes[..])),
        2 => snappy(&bytes),
        3 => read_all("lz4", bytes.len(), lz4::Decoder::new(&bytes[..]).map_err(|error| format!("lz4: {error}"))?),
        4 => read_all("zstd", bytes.len(), zstd::Decoder::new(&bytes[..]).map_err(|error| format!("zstd: {error}"))?),
        unknown => Err(format!("codec {unknown} is not known")),
    };
    decompressed.map(Bytes::from)
}

fn read_all(codec: &str, compressed: usize, decoder: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(compressed.saturating_mul(3).min(MAX_DECOMPRESSED));
    let read = decoder.take(MAX_DECOMPRESSED as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("{codec}: {error}"))?;
    if bytes.len() > MAX_DECOMPRESSED {
        return Err(format!("{codec}: more than {MAX_DECOMPRESSED} bytes"));
    }
    Ok(bytes)
}

fn snappy(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut decompressed = Vec::new();
    if !bytes.starts_with(XERIAL_MAGIC) {
        snappy_block(bytes, &mut decompressed)?;
        return Ok(decompressed);
    }
    let mut rest = bytes.get(XERIAL_HEADER..).ok_or("snappy: the header is cut off")?;
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>().ok_or("snappy: a length is cut off")?;
        let length = u32::from_be_bytes(*length) as usize;
        let block = behind.get(..length).ok_or("snappy: a block is cut off")?;
        snappy_block(block, &mut decompressed)?;
        rest = &behind[length..];
    }
    Ok(decompressed)
}

fn snappy_block(block: &[u8], decompressed: &mut Vec<u8>) -> Result<(), String> {
    let error = |error| format!("snappy: {error}");
    let length = snap::raw::decompress_len(block).map_err(error)?;
    let begin = decompressed.len();
    // A snappy block cannot expand more than about 22 times: a larger claim is not worth its allocation.
    if length > block.len().saturating_mul(64).saturating_add(64) || begin + length > MAX_DECOMPRESSED {
        return Err("snappy: a block claims an impossible length".to_owned());
    }
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

    #[test]
    fn each_codec_gives_back_what_was_compressed() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(TEXT).expect("written");
        let mut lz4 = lz4::EncoderBuilder::new().build(Vec::new()).expect("an encoder");
        lz4.write_all(TEXT).expect("written");
        let (lz4, finished) = lz4.finish();
        finished.expect("finished");
        let mut xerial = [XERIAL_MAGIC, &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
        for half in [&TEXT[..20], &TEXT[20..]] {
            let block = raw_snappy(half);
            xerial.extend((block.len() as u32).to_be_bytes());
            xerial.extend(block);
        }
        for (codec, compressed) in [
            (0, TEXT.to_vec()),
            (1, gzip.finish().expect("finished")),
            (2, raw_snappy(TEXT)),
            (2, xerial),
            (3, lz4),
            (4, zstd::encode_all(TEXT, 1).expect("compressed")),
        ] {
            assert_eq!(decompress(codec, compressed.into()).as_deref(), Ok(TEXT), "codec {codec}");
        }
    }

    #[test]
    fn what_is_no_such_codec_is_an_error() {
        for codec in 1..8 {
            assert!(decompress(codec, Bytes::from_static(&[0x82; 16])).is_err(), "codec {codec}");
        }
        assert!(decompress(2, Bytes::from_static(&[0xff, 0xff, 0xff, 0x7f, 0])).is_err(), "a claim of 256 MiB");
    }
}
