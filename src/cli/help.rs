//! Help texts, made from the table of settings.

use std::fmt::Write;

use super::Command;
use crate::config::KEYS;

const INTRO: &str = "WebRTC Engine: video calls from one binary

Usage:
  webrtc-engine [serve] [flags]        run the server
  webrtc-engine token --user U [...]   print a token
  webrtc-engine config check [flags]   print the effective configuration
  webrtc-engine recordings list        what is in RECORDING_OUTPUT_DIR
  webrtc-engine recordings repair      complete what a crash cut off
  webrtc-engine recordings upload      send to the store what is not there

  --config FILE   TOML file (also WEBRTC_ENGINE_CONFIG)
  -h, --help      this, also after a command
  -V, --version   the version
";

const TOKEN: &str = "Usage: webrtc-engine token --user U [--name N] [--role R] [--room C] [--ttl 1h]

Prints a token signed with JWT_SECRET, JWT_PRIVATE_KEY_FILE or the development secret in DATA_DIR.

  --user U   user id, 1 to 128 characters
  --name N   display name
  --role R   admin, host, moderator, participant (default) or viewer
  --room C   id of the call, a comma list of them, or * (default)
  --ttl T    how long it is good, such as 30m, 1h (default), 7d

All settings of `webrtc-engine --help` are taken as well.
";

const CONFIG: &str = "Usage: webrtc-engine config check [--storage] [flags]

Prints every setting with where its value came from, secrets masked. Exit code 2 when something is wrong.

  --storage   writes, reads back and deletes a small object where recordings are to be stored instead, and says in a
              line what is wrong: credentials, clock, bucket, region, certificate or network. Exit code 1 then.

All settings of `webrtc-engine --help` are taken.
";

const RECORDINGS: &str = "Usage: webrtc-engine recordings list|repair|upload [flags]

  list     prints every recording in RECORDING_OUTPUT_DIR, and changes nothing
  repair   completes those that a crash cut off, as a server does when it starts; exit code 1 when one cannot be.
           What a running server is at is left alone.
  upload [ID...|--all-failed]
           sends what is unfinished to RECORDING_STORAGE_PROVIDER, and these recordings, or all whose upload was given
           up; exit code 1 when one cannot be. No server may run on DATA_DIR.

All settings of `webrtc-engine --help` are taken.
";

pub(super) fn text(command: Command) -> String {
    match command {
        Command::Token => TOKEN.to_owned(),
        Command::ConfigCheck => CONFIG.to_owned(),
        Command::RecordingsList | Command::RecordingsRepair | Command::RecordingsUpload => RECORDINGS.to_owned(),
        Command::Serve => {
            let mut help = INTRO.to_owned();
            help.push_str("\nEvery setting is a flag, an environment variable and a key of the file, in this order of strength:\n");
            let mut section = "";
            for key in KEYS {
                if key.section() != section {
                    section = key.section();
                    // Writing to a string does not fail.
                    let _ = writeln!(help, "\n[{section}]");
                }
                let flag = match (key.boolean, key.default) {
                    (true, Some("true")) => format!("--{}=false", key.flag()),
                    (true, _) => format!("--{}", key.flag()),
                    (false, _) => format!("--{} X", key.flag()),
                };
                let default = match key.default_help.or(key.default) {
                    Some(default) => format!(" [{default}]"),
                    None => String::new(),
                };
                let _ = writeln!(help, "  {flag}, {}, {}\n      {}{default}", key.name, key.file, key.help);
            }
            help
        }
    }
}
