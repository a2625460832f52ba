//! The server's half of SCRAM-SHA512 (RFC 5802), for one user.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha512};

const SALT: &[u8] = b"no salt is secret in a test";
const ITERATIONS: u32 = 64;

/// One exchange.
#[derive(Default)]
pub struct Scram {
    client_first: String,
    server_first: String,
    known_user: bool,
}

impl Scram {
    /// Answers the client's first message; `None` when it is malformed. A wrong name is told only at the end.
    pub fn first(&mut self, message: &[u8], username: &str) -> Option<Vec<u8>> {
        self.client_first = std::str::from_utf8(message).ok()?.strip_prefix("n,,")?.to_owned();
        let field = |name: &str| self.client_first.split(',').find_map(|part| part.strip_prefix(name));
        let (user, nonce) = (field("n=")?, field("r=")?);
        self.known_user = user == username;
        self.server_first = format!("r={nonce}server,s={},i={ITERATIONS}", BASE64.encode(SALT));
        Some(self.server_first.clone().into_bytes())
    }

    /// Checks the client's proof and gives ours; `None` when the password is wrong.
    pub fn last(&mut self, message: &[u8], password: &str) -> Option<Vec<u8>> {
        let (without_proof, proof) = std::str::from_utf8(message).ok()?.rsplit_once(",p=")?;
        let salted = salted_password(password);
        let auth_message = format!("{},{},{without_proof}", self.client_first, self.server_first);
        let client_key = hmac(&salted, b"Client Key");
        let signature = hmac(&Sha512::digest(&client_key), auth_message.as_bytes());
        let expected: Vec<u8> = client_key.iter().zip(&signature).map(|(key, signature)| key ^ signature).collect();
        if !self.known_user || BASE64.decode(proof).ok()? != expected {
            return None;
        }
        let server_signature = hmac(&hmac(&salted, b"Server Key"), auth_message.as_bytes());
        Some(format!("v={}", BASE64.encode(server_signature)).into_bytes())
    }
}

fn salted_password(password: &str) -> Vec<u8> {
    let mut round = hmac(password.as_bytes(), &[SALT, &1_u32.to_be_bytes()].concat());
    let mut salted = round.clone();
    for _ in 1..ITERATIONS {
        round = hmac(password.as_bytes(), &round);
        salted.iter_mut().zip(&round).for_each(|(byte, other)| *byte ^= other);
    }
    salted
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("a key of any length");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}
