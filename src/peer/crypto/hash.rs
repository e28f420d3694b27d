//! SHA-1, SHA-256 and HMAC-SHA1 (RFC 2104).
//!
//! HMAC authenticates STUN (RFC 8489 §14.5) and packets of the SRTP profile `AES128_CM_SHA1_80` (RFC 3711 §4.2.1), so
//! it runs per packet. OpenSSL's general interface (`PKey::hmac`, `Signer`) looks its algorithm up each time and costs
//! several times the hashing; the two hashes of the definition, written out, do not. Remembering the state after the
//! padded key would save two blocks of hashing, which is little, and keep keys beyond their sessions.

use openssl::sha::{Sha1, sha1, sha256};
use str0m::crypto::{Sha1HmacProvider, Sha1Provider, Sha256Provider};

/// All hash functions; stateless.
#[derive(Debug)]
pub struct Hashes;

impl Sha1HmacProvider for Hashes {
    fn sha1_hmac(&self, key: &[u8], payloads: &[&[u8]]) -> [u8; 20] {
        let mut block = [0; SHA1_BLOCK_LEN];
        if let Some(start) = block.get_mut(..key.len()) {
            start.copy_from_slice(key);
        } else {
            block[..20].copy_from_slice(&sha1(key));
        }

        let mut inner = Sha1::new();
        inner.update(&block.map(|byte| byte ^ INNER_PAD));
        for payload in payloads {
            inner.update(payload);
        }
        let mut outer = Sha1::new();
        outer.update(&block.map(|byte| byte ^ OUTER_PAD));
        outer.update(&inner.finish());
        outer.finish()
    }
}

impl Sha1Provider for Hashes {
    fn sha1(&self, data: &[u8]) -> [u8; 20] {
        sha1(data)
    }
}

impl Sha256Provider for Hashes {
    fn sha256(&self, data: &[u8]) -> [u8; 32] {
        sha256(data)
    }
}

const SHA1_BLOCK_LEN: usize = 64;
const INNER_PAD: u8 = 0x36;
const OUTER_PAD: u8 = 0x5c;

#[cfg(test)]
mod tests {
    use super::super::tests::{aws, hex};
    use super::*;

    #[test]
    fn hmac_sha1_agrees_with_rfc_2202() {
        let counting: Vec<u8> = (1..=25).collect();
        let rows: [(&[u8], &[u8], &str); 7] = [
            (&[0x0b; 20], b"Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"),
            (b"Jefe", b"what do ya want for nothing?", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (&[0xaa; 20], &[0xdd; 50], "125d7342b9ac11cd91a39af48aa17b4f63f175d3"),
            (&counting, &[0xcd; 50], "4c9007f4026250c6bc8414f9bf50c86c2d7235da"),
            (&[0x0c; 20], b"Test With Truncation", "4c1a03424b55e07fe7f27be1d58bb9324a9a5a04"),
            (
                &[0xaa; 80],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "aa4ae5e15272d00e95705637ce8a3b55ed402112",
            ),
            (
                &[0xaa; 80],
                b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data",
                "e8e99d0f45237d786d6bbaa7965c7808bbff1a91",
            ),
        ];
        for (key, data, tag) in rows {
            assert_eq!(Hashes.sha1_hmac(key, &[data]).to_vec(), hex(tag), "{tag}");
            let (start, end) = data.split_at(data.len() / 3);
            assert_eq!(Hashes.sha1_hmac(key, &[start, &[], end]).to_vec(), hex(tag), "in parts: {tag}");
        }
    }

    /// Key lengths around the block length take different paths.
    #[test]
    fn hmac_sha1_agrees_with_aws_lc() {
        let mut random = fastrand::Rng::with_seed(2104);
        for key_len in [0, 1, 19, 20, 63, 64, 65, 256] {
            for data_len in [0, 1, 55, 56, 63, 64, 65, 80, 1200, 1500] {
                let key: Vec<u8> = (0..key_len).map(|_| random.u8(..)).collect();
                let data: Vec<u8> = (0..data_len).map(|_| random.u8(..)).collect();
                assert_eq!(
                    Hashes.sha1_hmac(&key, &[&data]),
                    aws().sha1_hmac_provider.sha1_hmac(&key, &[&data]),
                    "key of {key_len} bytes, data of {data_len}"
                );
            }
        }
    }

    /// FIPS 180-2, appendix A.1 and B.1.
    #[test]
    fn hashes_agree_with_fips_180() {
        assert_eq!(Hashes.sha1(b"abc").to_vec(), hex("a9993e364706816aba3e25717850c26c9cd0d89d"));
        assert_eq!(Hashes.sha1(b"").to_vec(), hex("da39a3ee5e6b4b0d3255bfef95601890afd80709"));
        assert_eq!(
            Hashes.sha256(b"abc").to_vec(),
            hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
        assert_eq!(
            Hashes.sha256(b"").to_vec(),
            hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        );
    }
}
