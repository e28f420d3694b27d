//! Tokens, minted with a secret that shard and clients share.

use std::time::{Duration, SystemTime};

use webrtc_engine::auth::{Claims, Role, RoomScope, Signer};
use webrtc_engine::base::{RoomId, UserId};
use webrtc_engine::config::{AuthConfig, Secret};

pub const SECRET: &str = "benches-share-this-secret-with-nobody-else";

pub fn auth() -> AuthConfig {
    AuthConfig { jwt_secret: Some(Secret::new(SECRET)), ..AuthConfig::default() }
}

pub fn mint(user: &str, room: &str, wall: SystemTime) -> String {
    let signer = Signer::new(&auth()).expect("the secret is long enough").expect("a secret can sign");
    let claims = Claims {
        user: UserId::new(user).expect("a user id"),
        name: None,
        role: Role::Participant,
        rooms: RoomScope::Rooms(vec![RoomId::new(room).expect("a room id")]),
        permissions: None,
        ttl: Duration::from_secs(3600),
    };
    signer.mint(&claims, wall)
}
