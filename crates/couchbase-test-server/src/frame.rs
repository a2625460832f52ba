//! The framing of the memcached binary protocol.

/// Operation codes that this server knows.
#[allow(missing_docs)]
pub mod opcode {
    pub const GET: u8 = 0x00;
    pub const SET: u8 = 0x01;
    pub const ADD: u8 = 0x02;
    pub const REPLACE: u8 = 0x03;
    pub const DELETE: u8 = 0x04;
    pub const INCREMENT: u8 = 0x05;
    pub const DECREMENT: u8 = 0x06;
    pub const NOOP: u8 = 0x0a;
    pub const APPEND: u8 = 0x0e;
    pub const PREPEND: u8 = 0x0f;
    pub const TOUCH: u8 = 0x1c;
    pub const GET_AND_TOUCH: u8 = 0x1d;
    pub const HELLO: u8 = 0x1f;
    pub const SASL_LIST: u8 = 0x20;
    pub const SASL_AUTH: u8 = 0x21;
    pub const SASL_STEP: u8 = 0x22;
    pub const SELECT_BUCKET: u8 = 0x89;
    pub const GET_LOCKED: u8 = 0x94;
    pub const UNLOCK: u8 = 0x95;
    pub const GET_META: u8 = 0xa0;
    pub const GET_CLUSTER_CONFIG: u8 = 0xb5;
    pub const GET_MANIFEST: u8 = 0xba;
    pub const GET_COLLECTION_ID: u8 = 0xbb;
    pub const LOOKUP_IN: u8 = 0xd0;
    pub const MUTATE_IN: u8 = 0xd1;
    pub const GET_ERROR_MAP: u8 = 0xfe;

    /// Whether an operation changes a document.
    pub fn is_mutation(opcode: u8) -> bool {
        matches!(opcode, SET..=DECREMENT | APPEND | PREPEND | TOUCH | GET_AND_TOUCH | MUTATE_IN)
    }
}

const HEADER: usize = 24;
const REQUEST_WITH_FRAMES: u8 = 0x08;
const RESPONSE: u8 = 0x81;

/// The datatype bit of a JSON body.
pub const DATATYPE_JSON: u8 = 1;
/// The datatype bit of a body compressed with Snappy.
pub const DATATYPE_SNAPPY: u8 = 2;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub opcode: u8,
    pub frames: Vec<u8>,
    pub extras: Vec<u8>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub datatype: u8,
    pub vbucket: u16,
    pub opaque: u32,
    pub cas: u64,
}

impl Request {
    /// Takes the next whole request off the front of a buffer, and says how many bytes it had.
    ///
    /// `Err` when the lengths contradict each other.
    pub fn parse(buffer: &[u8]) -> Result<Option<(Self, usize)>, &'static str> {
        if buffer.len() < HEADER {
            return Ok(None);
        }
        let body = be32(&buffer[8..]) as usize;
        if buffer.len() < HEADER + body {
            return Ok(None);
        }
        let (frames, key) = if buffer[0] == REQUEST_WITH_FRAMES {
            (buffer[2] as usize, buffer[3] as usize)
        } else {
            (0, be16(&buffer[2..]) as usize)
        };
        let extras = buffer[4] as usize;
        if frames + extras + key > body {
            return Err("the parts of the request are longer than its body");
        }
        let (frame_bytes, rest) = buffer[HEADER..HEADER + body].split_at(frames);
        let (extra_bytes, rest) = rest.split_at(extras);
        let (key_bytes, value) = rest.split_at(key);
        let request = Self {
            opcode: buffer[1],
            frames: frame_bytes.to_vec(),
            extras: extra_bytes.to_vec(),
            key: key_bytes.to_vec(),
            value: value.to_vec(),
            datatype: buffer[5],
            vbucket: be16(&buffer[6..]),
            opaque: be32(&buffer[12..]),
            cas: be64(&buffer[16..]),
        };
        Ok(Some((request, HEADER + body)))
    }

    /// What the flexible frames in front of the extras ask for.
    pub fn frame_info(&self) -> FrameInfo {
        let mut info = FrameInfo::default();
        let mut rest = &self.frames[..];
        while let Some((&head, tail)) = rest.split_first() {
            let length = (head & 0x0f) as usize;
            match head >> 4 {
                1 => info.durability = tail.first().copied(),
                5 => info.preserve_expiry = true,
                _ => {}
            }
            rest = tail.get(length..).unwrap_or_default();
        }
        info
    }
}

/// Options that a request carries in frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameInfo {
    /// 1 majority, 2 majority and persisted on the active node, 3 persisted on a majority.
    pub durability: Option<u8>,
    pub preserve_expiry: bool,
}

/// One answer; all but the status may stay empty.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    pub cas: u64,
    pub extras: Vec<u8>,
    pub value: Vec<u8>,
    pub datatype: u8,
}

impl Response {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn value(value: impl Into<Vec<u8>>) -> Self {
        Self { value: value.into(), ..Self::default() }
    }

    pub fn json(status: u16, value: impl Into<Vec<u8>>) -> Self {
        Self { status, value: value.into(), datatype: DATATYPE_JSON, ..Self::default() }
    }

    /// The bytes on the wire.
    pub fn encode(&self, request: &Request) -> Vec<u8> {
        let body = self.extras.len() + self.value.len();
        let mut out = Vec::with_capacity(HEADER + body);
        out.extend([RESPONSE, request.opcode, 0, 0, self.extras.len() as u8, self.datatype]);
        out.extend(self.status.to_be_bytes());
        out.extend((body as u32).to_be_bytes());
        out.extend(request.opaque.to_be_bytes());
        out.extend(self.cas.to_be_bytes());
        out.extend(&self.extras);
        out.extend(&self.value);
        out
    }
}

pub fn be16(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

pub fn be32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

pub fn be64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
