//! The ciphers of SRTP on OpenSSL: AES-GCM (RFC 7714), AES in counter mode and the rounds of key derivation (RFC 3711).
//!
//! Each cipher object owns one OpenSSL context, keyed when it is made and dropped with the session. A packet only sets
//! the nonce, so it costs no lookup, no key schedule and no allocation. OpenSSL wipes the key when the context drops.
//!
//! A packet can make an operation fail but not panic: lengths are checked here before OpenSSL's bindings would assert
//! on them.

use std::sync::OnceLock;

use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use str0m::crypto::{
    AeadAes128GcmCipher, AeadAes256GcmCipher, Aes128CmSha1_80Cipher, CryptoError, SrtpProvider, SupportedAeadAes128Gcm,
    SupportedAeadAes256Gcm, SupportedAes128CmSha1_80,
};

/// Factory of all SRTP ciphers; stateless.
#[derive(Debug)]
pub struct Srtp;

/// Looks all ciphers up in OpenSSL, so that nothing is looked up later.
///
/// # Panics
///
/// If one is missing.
pub fn resolve_ciphers() {
    ciphers();
}

impl SrtpProvider for Srtp {
    fn aes_128_cm_sha1_80(&self) -> &'static dyn SupportedAes128CmSha1_80 {
        &Srtp
    }

    fn aead_aes_128_gcm(&self) -> &'static dyn SupportedAeadAes128Gcm {
        &Srtp
    }

    fn aead_aes_256_gcm(&self) -> &'static dyn SupportedAeadAes256Gcm {
        &Srtp
    }

    fn srtp_aes_128_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        encrypt_block(&ciphers().aes_128_ecb, key, input, output);
    }

    fn srtp_aes_256_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        encrypt_block(&ciphers().aes_256_ecb, key, input, output);
    }
}

impl SupportedAes128CmSha1_80 for Srtp {
    fn create_cipher(&self, key: [u8; 16], _encrypt: bool) -> Box<dyn Aes128CmSha1_80Cipher> {
        Box::new(CounterMode { context: keyed(&ciphers().aes_128_ctr, &key, true) })
    }
}

impl SupportedAeadAes128Gcm for Srtp {
    fn create_cipher(&self, key: [u8; 16], encrypt: bool) -> Box<dyn AeadAes128GcmCipher> {
        Box::new(Gcm { context: keyed(&ciphers().aes_128_gcm, &key, encrypt) })
    }
}

impl SupportedAeadAes256Gcm for Srtp {
    fn create_cipher(&self, key: [u8; 32], encrypt: bool) -> Box<dyn AeadAes256GcmCipher> {
        Box::new(Gcm { context: keyed(&ciphers().aes_256_gcm, &key, encrypt) })
    }
}

/// AES-128 in counter mode: encryption and decryption are the same.
struct CounterMode {
    context: CipherCtx,
}

impl CounterMode {
    /// Writes `input` XOR key stream to the start of `output`, which may be longer.
    fn apply(&mut self, iv: &[u8; 16], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        let output = output.get_mut(..input.len()).ok_or_else(output_too_short)?;
        self.context.encrypt_init(None, None, Some(iv)).map_err(openssl_error)?;
        self.context.cipher_update(input, Some(output)).map_err(openssl_error)?;
        Ok(())
    }
}

impl Aes128CmSha1_80Cipher for CounterMode {
    fn encrypt(&mut self, iv: &[u8; 16], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        self.apply(iv, input, output)
    }

    fn decrypt(&mut self, iv: &[u8; 16], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        self.apply(iv, input, output)
    }
}

/// AES-GCM with a nonce of 12 bytes and a tag of 16, of either key length.
struct Gcm {
    context: CipherCtx,
}

impl Gcm {
    /// Writes ciphertext, then tag, to the start of `output`, which may be longer.
    fn seal(&mut self, iv: &[u8; 12], aad: &[u8], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        let (ciphertext, rest) = output.split_at_mut_checked(input.len()).ok_or_else(output_too_short)?;
        let tag = rest.first_chunk_mut::<TAG_LEN>().ok_or_else(output_too_short)?;

        let context = &mut self.context;
        context.encrypt_init(None, None, Some(iv)).map_err(openssl_error)?;
        context.cipher_update(aad, None).map_err(openssl_error)?;
        context.cipher_update(input, Some(ciphertext)).map_err(openssl_error)?;
        context.cipher_final(&mut []).map_err(openssl_error)?;
        context.tag(tag).map_err(openssl_error)
    }

    /// Takes ciphertext followed by tag, writes the plaintext to the start of `output`, returns its length.
    ///
    /// When the tag does not match, what was written is wiped again: nobody gets to see unauthenticated plaintext.
    fn open(&mut self, iv: &[u8; 12], aads: &[&[u8]], input: &[u8], output: &mut [u8]) -> Result<usize, CryptoError> {
        let (ciphertext, tag) = input.split_last_chunk::<TAG_LEN>().ok_or_else(input_too_short)?;
        let plaintext = output.get_mut(..ciphertext.len()).ok_or_else(output_too_short)?;

        let context = &mut self.context;
        context.decrypt_init(None, None, Some(iv)).map_err(openssl_error)?;
        for aad in aads {
            context.cipher_update(aad, None).map_err(openssl_error)?;
        }
        context.cipher_update(ciphertext, Some(&mut *plaintext)).map_err(openssl_error)?;
        context.set_tag(tag).map_err(openssl_error)?;
        if context.cipher_final(&mut []).is_err() {
            plaintext.fill(0);
            return Err(CryptoError::Other("authentication failed".into()));
        }
        Ok(ciphertext.len())
    }
}

impl AeadAes128GcmCipher for Gcm {
    fn encrypt(&mut self, iv: &[u8; 12], aad: &[u8], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        self.seal(iv, aad, input, output)
    }

    fn decrypt(
        &mut self,
        iv: &[u8; 12],
        aads: &[&[u8]],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, CryptoError> {
        self.open(iv, aads, input, output)
    }
}

impl AeadAes256GcmCipher for Gcm {
    fn encrypt(&mut self, iv: &[u8; 12], aad: &[u8], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        self.seal(iv, aad, input, output)
    }

    fn decrypt(
        &mut self,
        iv: &[u8; 12],
        aads: &[&[u8]],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, CryptoError> {
        self.open(iv, aads, input, output)
    }
}

/// Encrypts the one block of `input` (16 bytes) to the start of `output`, leaving the rest of it alone.
///
/// RFC 3711 §4.3.1 derives keys with these; it happens some ten times per session.
fn encrypt_block(cipher: &Cipher, key: &[u8], input: &[u8], output: &mut [u8]) {
    // The bindings want room for a block more than is written.
    let mut blocks = [0; 2 * BLOCK_LEN];
    let mut context = keyed(cipher, key, true);
    let written = context.cipher_update(input, Some(&mut blocks)).expect("AES accepts every block");
    assert_eq!(written, BLOCK_LEN, "key derivation encrypts one block at a time");
    output[..BLOCK_LEN].copy_from_slice(&blocks[..BLOCK_LEN]);
}

/// A context that has its key and waits for nonces.
fn keyed(cipher: &Cipher, key: &[u8], encrypt: bool) -> CipherCtx {
    assert_eq!(key.len(), cipher.key_length(), "the caller knows the key length of its cipher");
    let mut context = CipherCtx::new().expect("memory for a cipher context");
    let init = if encrypt {
        context.encrypt_init(Some(cipher), Some(key), None)
    } else {
        context.decrypt_init(Some(cipher), Some(key), None)
    };
    init.expect("AES accepts every key of its length");
    context.set_padding(false);
    context
}

/// The ciphers as found in OpenSSL's providers. A name that is not resolved beforehand is searched for under a lock
/// each time a context is keyed.
struct Ciphers {
    aes_128_ctr: Cipher,
    aes_128_gcm: Cipher,
    aes_256_gcm: Cipher,
    aes_128_ecb: Cipher,
    aes_256_ecb: Cipher,
}

fn ciphers() -> &'static Ciphers {
    static CIPHERS: OnceLock<Ciphers> = OnceLock::new();
    CIPHERS.get_or_init(|| {
        let fetch = |name| Cipher::fetch(None, name, None).expect("OpenSSL is built with AES");
        Ciphers {
            aes_128_ctr: fetch("AES-128-CTR"),
            aes_128_gcm: fetch("AES-128-GCM"),
            aes_256_gcm: fetch("AES-256-GCM"),
            aes_128_ecb: fetch("AES-128-ECB"),
            aes_256_ecb: fetch("AES-256-ECB"),
        }
    })
}

fn input_too_short() -> CryptoError {
    CryptoError::Other("input too short for a tag".into())
}

fn output_too_short() -> CryptoError {
    CryptoError::Other("output too short".into())
}

fn openssl_error(error: ErrorStack) -> CryptoError {
    CryptoError::Other(format!("OpenSSL: {error}"))
}

/// Names no key.
impl std::fmt::Debug for CounterMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CounterMode").finish_non_exhaustive()
    }
}

/// Names no key.
impl std::fmt::Debug for Gcm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gcm").finish_non_exhaustive()
    }
}

const BLOCK_LEN: usize = 16;
const TAG_LEN: usize = 16;

#[cfg(test)]
mod tests {
    use str0m::crypto::{AeadAes128Gcm, Aes128CmSha1_80, CryptoProvider};

    use super::super::tests::{array, aws, hex, ours};
    use super::*;

    // ---- Published vectors ----

    /// RFC 3711 B.2: the key stream at several counters, each reached by its own packet and all on one context.
    #[test]
    fn counter_mode_agrees_with_rfc_3711_b2() {
        let mut cipher =
            ours().srtp_provider.aes_128_cm_sha1_80().create_cipher(array("2b7e151628aed2a6abf7158809cf4f3c"), true);
        let rows = [
            ("f0f1f2f3f4f5f6f7f8f9fafbfcfd0000", "e03ead0935c95e80e166b16dd92b4eb4"),
            ("f0f1f2f3f4f5f6f7f8f9fafbfcfd0001", "d23513162b02d0f72a43a2fe4a5f97ab"),
            ("f0f1f2f3f4f5f6f7f8f9fafbfcfd0002", "41e95b3bb0a2e8dd477901e4fca894c0"),
            ("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", "ec8cdf7398607cb0f2d21675ea9ea1e4"),
            ("f0f1f2f3f4f5f6f7f8f9fafbfcfdff00", "362b7c3c6773516318a077d7fc5073ae"),
            ("f0f1f2f3f4f5f6f7f8f9fafbfcfdff01", "6a2cc3787889374fbeb4c81b17ba6c44"),
        ];
        for (counter, key_stream) in rows {
            let mut output = [0; 16];
            cipher.encrypt(&array(counter), &[0; 16], &mut output).unwrap();
            assert_eq!(output.to_vec(), hex(key_stream), "{counter}");
        }
        // Three blocks of one packet are the first three rows.
        let mut output = [0; 48];
        cipher.encrypt(&array(rows[0].0), &[0; 48], &mut output).unwrap();
        let expected: Vec<u8> = rows[..3].iter().flat_map(|(_, key_stream)| hex(key_stream)).collect();
        assert_eq!(output.to_vec(), expected);
    }

    /// RFC 3711 B.3: session keys from a master key, one block each.
    #[test]
    fn key_derivation_agrees_with_rfc_3711_b3() {
        let master_key = hex("e1f97a0d3e018be0d64fa32c06de4139");
        let rows = [
            ("0ec675ad498afeebb6960b3aabe60000", "c61e7a93744f39ee10734afe3ff7a087"), // cipher key
            ("0ec675ad498afee9b6960b3aabe60000", "30cbbc08863d8c85d49db34a9ae17ac6"), // cipher salt
            ("0ec675ad498afeeab6960b3aabe60000", "cebe321f6ff7716b6fd4ab49af256a15"), // authentication key, start
            ("0ec675ad498afeeab6960b3aabe60001", "6d38baa48f0a0acf3c34e2359e6cdbce"), // authentication key, next
        ];
        for (input, expected) in rows {
            // str0m passes room for two blocks.
            for room in [16, 32] {
                let mut output = vec![0x55; room];
                ours().srtp_provider.srtp_aes_128_ecb_round(&master_key, &hex(input), &mut output);
                assert_eq!(output[..16], hex(expected), "{input}");
                assert!(output[16..].iter().all(|byte| *byte == 0x55), "writes one block");
            }
        }
    }

    /// FIPS 197, appendix C.1 and C.3.
    #[test]
    fn blocks_agree_with_fips_197() {
        let input = hex("00112233445566778899aabbccddeeff");
        let key: Vec<u8> = (0..32).collect();
        let mut output = [0; 16];
        ours().srtp_provider.srtp_aes_128_ecb_round(&key[..16], &input, &mut output);
        assert_eq!(output.to_vec(), hex("69c4e0d86a7b0430d8cdb78070b4c55a"));
        ours().srtp_provider.srtp_aes_256_ecb_round(&key, &input, &mut output);
        assert_eq!(output.to_vec(), hex("8ea2b7ca516745bfeafc49904b496089"));
    }

    /// RFC 7714 §16.1.1 and §16.2.1: one RTP packet under both key lengths, both ways.
    #[test]
    fn gcm_agrees_with_rfc_7714_srtp() {
        let header = hex("8040f17b8041f8d35501a0b2");
        let payload = hex("47616c6c696120657374206f6d6e697320646976697361\
                           20696e207061727465732074726573");
        let salt = array("517569642070726f2071756f");
        let iv = AeadAes128Gcm::rtp_iv(salt, 0x5501_a0b2, 0, 0xf17b);
        assert_eq!(iv.to_vec(), hex("51753c6580c2726f20718414"));

        let rows = [
            (
                Profile::Gcm128,
                "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833\
                 899d7f27beb16a9152cf765ee4390cce",
            ),
            (
                Profile::Gcm256,
                "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b\
                 7aa3db36dfffd6b0f9bb7878d7a76c13",
            ),
        ];
        for (profile, expected) in rows {
            let key: [u8; 32] = std::array::from_fn(|i| i as u8);
            let iv16 = widen(&iv);
            let sealed = Cipher::new(ours(), profile, key, true).seal(&iv16, &header, &payload);
            assert_eq!(sealed, hex(expected), "{profile:?}");
            let opened = Cipher::new(ours(), profile, key, false).open(&iv16, &[&header], &sealed);
            assert_eq!(opened.unwrap(), payload, "{profile:?}");
        }
    }

    /// RFC 7714 §17.1: an SRTCP packet, whose associated data comes in two parts (header, then E flag and index).
    #[test]
    fn gcm_agrees_with_rfc_7714_srtcp() {
        let header = hex("81c8000d4d617273");
        let index = hex("800005d4");
        let payload =
            hex("4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef deadbeef deadbeef deadbeef");
        let iv = widen(&AeadAes128Gcm::rtcp_iv(array("517569642070726f2071756f"), 0x4d61_7273, 0x5d4));
        let expected =
            hex("63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 730d6fda 4ce09b46 86303ded \
                            0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade");
        let key: [u8; 32] = std::array::from_fn(|i| i as u8);

        let mut aad = header.clone();
        aad.extend(&index);
        assert_eq!(Cipher::new(ours(), Profile::Gcm128, key, true).seal(&iv, &aad, &payload), expected);
        let mut cipher = Cipher::new(ours(), Profile::Gcm128, key, false);
        assert_eq!(cipher.open(&iv, &[&header, &index], &expected).unwrap(), payload);
        assert!(cipher.open(&iv, &[&index, &header], &expected).is_err(), "the order of the parts counts");
    }

    /// RFC 7714 §17.3: SRTCP that is only authenticated. The whole packet and the index are associated data.
    #[test]
    fn gcm_agrees_with_rfc_7714_unencrypted_srtcp() {
        let packet = hex("81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 \
                          deadbeef deadbeef deadbeef deadbeef deadbeef");
        let index = hex("000005d4");
        let tag = hex("841dd968 3dd78ec9 2ae58790 125f62b3");
        let iv = widen(&AeadAes128Gcm::rtcp_iv(array("517569642070726f2071756f"), 0x4d61_7273, 0x5d4));
        let mut cipher = Cipher::new(ours(), Profile::Gcm128, std::array::from_fn(|i| i as u8), false);
        assert_eq!(cipher.open(&iv, &[&packet, &index], &tag), Ok(vec![]));
        assert!(cipher.open(&iv, &[&packet], &tag).is_err(), "the index counts");
    }

    // ---- Against another implementation ----

    /// Random keys, nonces, associated data and lengths, many packets per context; each side opens what the other
    /// sealed. Also proves that a context forgets the packet before, refused ones included.
    #[test]
    fn all_profiles_agree_with_aws_lc() {
        let mut random = fastrand::Rng::with_seed(7714);
        for profile in Profile::ALL {
            for (sealer, opener) in [(ours(), aws()), (aws(), ours()), (ours(), ours())] {
                let key = std::array::from_fn(|_| random.u8(..));
                let mut seal = Cipher::new(sealer, profile, key, true);
                let mut open = Cipher::new(opener, profile, key, false);
                let sizes = [0, 1, 15, 16, 17, 1500].into_iter();
                let sizes: Vec<usize> = sizes.chain((0..60).map(|_| random.usize(..1500))).collect();
                for size in sizes {
                    let iv = std::array::from_fn(|_| random.u8(..));
                    let aad: Vec<u8> = (0..random.usize(12..72)).map(|_| random.u8(..)).collect();
                    let plain: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();

                    let sealed = seal.seal(&iv, &aad, &plain);
                    assert_eq!(sealed.len(), size + profile.overhead());
                    let (start, end) = aad.split_at(random.usize(..aad.len()));
                    for parts in [&[&aad[..]][..], &[start, end], &[start, &[], end]] {
                        assert_eq!(open.open(&iv, parts, &sealed).as_ref(), Ok(&plain), "{profile:?}, {size} bytes");
                    }
                    // A forged packet in between, so that the next honest one proves the context recovered.
                    if !sealed.is_empty() {
                        let mut forged = sealed;
                        let flipped = random.usize(..forged.len());
                        forged[flipped] ^= 1 << random.u8(..8);
                        assert_ne!(open.open(&iv, &[&aad], &forged).as_ref(), Ok(&plain), "{profile:?}, {size} bytes");
                    }
                }
            }
        }
    }

    /// Every bit of tag, associated data, nonce and ciphertext counts, and nothing of the plaintext is left behind.
    #[test]
    fn gcm_refuses_what_was_changed() {
        let key = [7; 32];
        let (iv, aad, plain) = ([9; 16], [1; 12], [0x5a; 40]);
        for profile in [Profile::Gcm128, Profile::Gcm256] {
            let sealed = Cipher::new(aws(), profile, key, true).seal(&iv, &aad, &plain);
            let mut open = Cipher::new(ours(), profile, key, false);
            for bit in 0..sealed.len() * 8 {
                let mut forged = sealed.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(open.open(&iv, &[&aad], &forged), Err(vec![0; 40]), "{profile:?} bit {bit}");
            }
            for bit in 0..aad.len() * 8 {
                let mut forged = aad;
                forged[bit / 8] ^= 1 << (bit % 8);
                assert!(open.open(&iv, &[&forged], &sealed).is_err(), "{profile:?} associated data, bit {bit}");
            }
            let mut nonce = iv;
            nonce[11] ^= 1;
            assert!(open.open(&nonce, &[&aad], &sealed).is_err());
            assert!(open.open(&iv, &[], &sealed).is_err());
            assert!(open.open(&iv, &[&aad], &sealed[..sealed.len() - 1]).is_err());
            let mut other_key = key;
            other_key[0] ^= 1;
            assert!(Cipher::new(ours(), profile, other_key, false).open(&iv, &[&aad], &sealed).is_err());
            assert_eq!(open.open(&iv, &[&aad], &sealed).as_deref(), Ok(&plain[..]), "the honest one still opens");
        }
    }

    /// RFC 3711 packets with their tag, made by one implementation and verified by the other.
    #[test]
    fn sha1_80_packets_verify_across_implementations() {
        let mut random = fastrand::Rng::with_seed(3711);
        let hmac_key: [u8; 20] = std::array::from_fn(|_| random.u8(..));
        for (sealer, opener) in [(ours(), aws()), (aws(), ours())] {
            let hmac_of = |provider: &'static CryptoProvider| {
                |key: &[u8], parts: &[&[u8]]| provider.sha1_hmac_provider.sha1_hmac(key, parts)
            };
            for size in [12, 13, 80, 1200] {
                let mut packet: Vec<u8> = (0..size).map(|_| random.u8(..)).collect();
                packet.resize(size + Aes128CmSha1_80::HMAC_TAG_LEN, 0);
                let index = random.u64(..1 << 48);
                Aes128CmSha1_80::rtp_hmac(hmac_of(sealer), &hmac_key, &mut packet, index, size);
                let (data, tag) = packet.split_at_mut(size);
                let verify = |data: &[u8], index, tag: &[u8]| {
                    Aes128CmSha1_80::rtp_verify(hmac_of(opener), &hmac_key, data, index, tag)
                };
                assert!(verify(data, index, tag));
                assert!(!verify(data, index ^ 1 << 16, tag), "the rollover counter is authenticated");
                data[size / 2] ^= 1;
                assert!(!verify(data, index, tag));
                data[size / 2] ^= 1;
                tag[9] ^= 1;
                assert!(!verify(data, index, tag));
            }
        }
    }

    // ---- Misuse ----

    #[test]
    fn wrong_lengths_are_errors() {
        let srtp = ours().srtp_provider;
        let mut gcm = srtp.aead_aes_128_gcm().create_cipher([1; 16], true);
        let mut room = [0; 100];
        for (input, output, fits) in [(10, 25, false), (10, 26, true), (10, 9, false), (0, 15, false), (0, 16, true)] {
            let result = gcm.encrypt(&[0; 12], &[0; 12], &vec![0; input], &mut room[..output]);
            assert_eq!(result.is_ok(), fits, "encrypt {input} bytes to {output}");
        }
        for (input, output) in [(0, 100), (15, 100), (26, 9)] {
            let result = gcm.decrypt(&[0; 12], &[&[0; 12]], &vec![0; input], &mut room[..output]);
            assert!(result.is_err(), "decrypt {input} bytes to {output}");
        }
        let mut counter_mode = srtp.aes_128_cm_sha1_80().create_cipher([1; 16], true);
        for (input, output, fits) in [(10, 9, false), (10, 10, true), (10, 25, true), (0, 0, true)] {
            let result = counter_mode.encrypt(&[0; 16], &vec![0; input], &mut room[..output]);
            assert_eq!(result.is_ok(), fits, "counter mode, {input} bytes to {output}");
        }
    }

    /// The direction named when a cipher is made is a hint: both operations work on either.
    #[test]
    fn a_cipher_works_in_both_directions() {
        for profile in Profile::ALL {
            for encrypt in [true, false] {
                let mut cipher = Cipher::new(ours(), profile, [3; 32], encrypt);
                for _ in 0..2 {
                    let sealed = cipher.seal(&[1; 16], &[2; 12], b"both ways");
                    assert_eq!(cipher.open(&[1; 16], &[&[2; 12]], &sealed).unwrap(), b"both ways");
                }
            }
        }
    }

    #[test]
    fn debug_output_shows_no_key() {
        let srtp = ours().srtp_provider;
        assert_eq!(format!("{:?}", srtp.aead_aes_128_gcm().create_cipher([1; 16], true)), "Gcm { .. }");
        assert_eq!(format!("{:?}", srtp.aes_128_cm_sha1_80().create_cipher([1; 16], true)), "CounterMode { .. }");
    }

    // ---- One face on three profiles ----

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Profile {
        CounterMode,
        Gcm128,
        Gcm256,
    }

    impl Profile {
        const ALL: [Profile; 3] = [Profile::CounterMode, Profile::Gcm128, Profile::Gcm256];

        /// What a sealed payload is longer by. The tag of counter mode is not the cipher's.
        fn overhead(self) -> usize {
            if self == Profile::CounterMode { 0 } else { TAG_LEN }
        }
    }

    enum Cipher {
        CounterMode(Box<dyn Aes128CmSha1_80Cipher>),
        Gcm128(Box<dyn AeadAes128GcmCipher>),
        Gcm256(Box<dyn AeadAes256GcmCipher>),
    }

    impl Cipher {
        fn new(provider: &CryptoProvider, profile: Profile, key: [u8; 32], encrypt: bool) -> Cipher {
            let srtp = provider.srtp_provider;
            let key16 = *key.first_chunk().unwrap();
            match profile {
                Profile::CounterMode => Cipher::CounterMode(srtp.aes_128_cm_sha1_80().create_cipher(key16, encrypt)),
                Profile::Gcm128 => Cipher::Gcm128(srtp.aead_aes_128_gcm().create_cipher(key16, encrypt)),
                Profile::Gcm256 => Cipher::Gcm256(srtp.aead_aes_256_gcm().create_cipher(key, encrypt)),
            }
        }

        /// GCM takes the first 12 bytes of `iv`. The output has the room that aws-lc wants for counter mode.
        fn seal(&mut self, iv: &[u8; 16], aad: &[u8], plain: &[u8]) -> Vec<u8> {
            let mut output = vec![0; plain.len() + 16];
            match self {
                Cipher::CounterMode(cipher) => {
                    cipher.encrypt(iv, plain, &mut output).unwrap();
                    output.truncate(plain.len());
                }
                Cipher::Gcm128(cipher) => cipher.encrypt(iv.first_chunk().unwrap(), aad, plain, &mut output).unwrap(),
                Cipher::Gcm256(cipher) => cipher.encrypt(iv.first_chunk().unwrap(), aad, plain, &mut output).unwrap(),
            }
            output
        }

        /// The plaintext, or what a refused packet left in the output.
        fn open(&mut self, iv: &[u8; 16], aads: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
            let iv12 = iv.first_chunk().unwrap();
            let mut output = vec![0; sealed.len()];
            let result = match self {
                Cipher::CounterMode(cipher) => cipher.decrypt(iv, sealed, &mut output).map(|()| sealed.len()),
                Cipher::Gcm128(cipher) => cipher.decrypt(iv12, aads, sealed, &mut output),
                Cipher::Gcm256(cipher) => cipher.decrypt(iv12, aads, sealed, &mut output),
            };
            match result {
                Ok(len) => output.truncate(len),
                Err(_) => output.truncate(sealed.len() - TAG_LEN),
            }
            result.map(|_| output.clone()).map_err(|_| output)
        }
    }

    fn widen(iv: &[u8; 12]) -> [u8; 16] {
        let mut wide = [0; 16];
        wide[..12].copy_from_slice(iv);
        wide
    }
}
