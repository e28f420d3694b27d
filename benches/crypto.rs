//! What does cryptography cost per packet and per connection, ours against the stock aws-lc-rs backend?
//!
//! `cargo bench --bench crypto`. Sizes are payload bytes behind a header of 12. Counter mode includes its HMAC tag.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use divan::{Bencher, black_box};
use str0m::Rtc;
use str0m::crypto::dtls::DtlsCert;
use str0m::crypto::{Aes128CmSha1_80, CryptoProvider};
use webrtc_engine::peer::crypto;

fn main() {
    divan::main();
}

const HEADER_LEN: usize = 12;
const SIZES: [usize; 2] = [80, 1200];
const HMAC_KEY: [u8; 20] = [3; 20];

trait Backend {
    fn provider() -> Arc<CryptoProvider>;
}

struct Ours;

struct AwsLc;

impl Backend for Ours {
    fn provider() -> Arc<CryptoProvider> {
        crypto::provider()
    }
}

impl Backend for AwsLc {
    fn provider() -> Arc<CryptoProvider> {
        static AWS: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
        Arc::clone(AWS.get_or_init(|| Arc::new(str0m_aws_lc_rs::default_provider())))
    }
}

macro_rules! gcm {
    ($name:ident, $factory:ident, $key_len:literal) => {
        mod $name {
            use super::*;

            #[divan::bench(types = [Ours, AwsLc], args = SIZES)]
            fn protect<B: Backend>(bencher: Bencher, size: usize) {
                let mut cipher = B::provider().srtp_provider.$factory().create_cipher([1; $key_len], true);
                let (aad, plain) = ([2; HEADER_LEN], vec![3; size]);
                let mut sealed = vec![0; size + 16];
                let mut iv = [0; 12];
                bencher.bench_local(|| {
                    iv[11] = u8::wrapping_add(iv[11], 1);
                    cipher.encrypt(&iv, &aad, black_box(&plain), &mut sealed).unwrap();
                });
            }

            #[divan::bench(types = [Ours, AwsLc], args = SIZES)]
            fn unprotect<B: Backend>(bencher: Bencher, size: usize) {
                let factory = B::provider().srtp_provider.$factory();
                let (iv, aad, mut plain) = ([7; 12], [2; HEADER_LEN], vec![3; size]);
                let mut sealed = vec![0; size + 16];
                factory.create_cipher([1; $key_len], true).encrypt(&iv, &aad, &plain, &mut sealed).unwrap();
                let mut cipher = factory.create_cipher([1; $key_len], false);
                bencher.bench_local(|| cipher.decrypt(&iv, &[&aad], black_box(&sealed), &mut plain).unwrap());
            }
        }
    };
}

gcm!(aes_128_gcm, aead_aes_128_gcm, 16);
gcm!(aes_256_gcm, aead_aes_256_gcm, 32);

mod aes_128_cm_sha1_80 {
    use super::*;

    #[divan::bench(types = [Ours, AwsLc], args = SIZES)]
    fn protect<B: Backend>(bencher: Bencher, size: usize) {
        let provider = B::provider();
        let mut cipher = provider.srtp_provider.aes_128_cm_sha1_80().create_cipher([1; 16], true);
        let plain = vec![3; size];
        let mut packet = vec![0; HEADER_LEN + size + 16];
        bencher.bench_local(|| {
            cipher.encrypt(&[7; 16], black_box(&plain), &mut packet[HEADER_LEN..]).unwrap();
            let hmac = |key: &[u8], parts: &[&[u8]]| provider.sha1_hmac_provider.sha1_hmac(key, parts);
            Aes128CmSha1_80::rtp_hmac(hmac, &HMAC_KEY, &mut packet, 1 << 17, HEADER_LEN + size);
        });
    }

    #[divan::bench(types = [Ours, AwsLc], args = SIZES)]
    fn unprotect<B: Backend>(bencher: Bencher, size: usize) {
        let provider = B::provider();
        let mut cipher = provider.srtp_provider.aes_128_cm_sha1_80().create_cipher([1; 16], false);
        let hmac = |key: &[u8], parts: &[&[u8]]| provider.sha1_hmac_provider.sha1_hmac(key, parts);
        let tag_start = HEADER_LEN + size;
        let mut packet = vec![3; tag_start + Aes128CmSha1_80::HMAC_TAG_LEN];
        Aes128CmSha1_80::rtp_hmac(hmac, &HMAC_KEY, &mut packet, 1 << 17, tag_start);
        let mut plain = vec![0; size + 16];
        bencher.bench_local(|| {
            let (data, tag) = black_box(&packet).split_at(tag_start);
            assert!(Aes128CmSha1_80::rtp_verify(hmac, &HMAC_KEY, data, 1 << 17, tag));
            cipher.decrypt(&[7; 16], &data[HEADER_LEN..], &mut plain).unwrap();
        });
    }
}

/// A STUN message of a connectivity check.
#[divan::bench(types = [Ours, AwsLc])]
fn stun_hmac<B: Backend>(bencher: Bencher) {
    let provider = B::provider();
    bencher.bench_local(|| provider.sha1_hmac_provider.sha1_hmac(&[1; 24], black_box(&[&[2; 88]])));
}

/// What a join pays before its first packet; the certificate exists already.
#[divan::bench(types = [Ours, AwsLc])]
fn create_rtc<B: Backend>(bencher: Bencher) {
    let certificate: &DtlsCert = crypto::certificate();
    let now = Instant::now();
    bencher.bench_local(|| {
        Rtc::builder().set_crypto_provider(B::provider()).set_dtls_cert(certificate.clone()).build(now)
    });
}
