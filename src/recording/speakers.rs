//! Who spoke when, as WebVTT: a cue for each time that somebody speaks, whose voice and text are the name.

use std::fmt::Write;

use super::manifest::State;

/// The whole of `speakers.vtt`. Empty without anybody who spoke.
pub fn captions(state: &State, duration_ms: u64) -> String {
    let spoken = spoken(state, duration_ms);
    if spoken.is_empty() {
        return String::new();
    }
    let mut text = String::from("WEBVTT\n");
    for (start_ms, end_ms, user) in spoken {
        let name = escape(state.display_name(user));
        // Writing to a String does not fail.
        let _ = write!(text, "\n{} --> {}\n<v {name}>{name}\n", timestamp(start_ms), timestamp(end_ms));
    }
    text
}

/// Beginning, end, who; in order of the beginnings.
fn spoken(state: &State, duration_ms: u64) -> Vec<(u64, u64, &str)> {
    let left = state.presences.iter().filter_map(|presence| Some((presence.left_ms?, presence.user.as_str())));
    let mut left: Vec<(u64, &str)> = left.collect();
    left.sort_unstable();
    let mut left = left.into_iter().peekable();
    let mut cues: Vec<(u64, u64, &str)> = Vec::new();
    let mut open: Vec<(u64, &str)> = Vec::new();
    let mut close = |at_ms: u64, (start_ms, user)| {
        let end_ms = at_ms.min(duration_ms);
        if end_ms > start_ms {
            cues.push((start_ms, end_ms, user));
        }
    };
    for line in &state.speakers {
        while let Some((at_ms, user)) = left.next_if(|(at_ms, _)| *at_ms <= line.at_ms) {
            let index = open.iter().position(|(_, speaker)| *speaker == user);
            index.into_iter().for_each(|index| close(at_ms, open.remove(index)));
        }
        open.retain(|cue| {
            let speaks = line.users.iter().any(|user| user == cue.1);
            if !speaks {
                close(line.at_ms, *cue);
            }
            speaks
        });
        for user in &line.users {
            if !open.iter().any(|(_, speaker)| speaker == user) {
                open.push((line.at_ms, user));
            }
        }
    }
    for (at_ms, user) in left {
        let index = open.iter().position(|(_, speaker)| *speaker == user);
        index.into_iter().for_each(|index| close(at_ms, open.remove(index)));
    }
    open.into_iter().for_each(|cue| close(u64::MAX, cue));
    cues.sort_by_key(|(start_ms, ..)| *start_ms);
    cues
}

fn timestamp(ms: u64) -> String {
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// A name is a text within a tag: it ends no tag, no line and no cue.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            _ if character.is_control() => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::manifest::{Joined, Left, Line, Speakers};

    fn state(lines: &[Line]) -> State {
        let mut state = State::default();
        lines.iter().for_each(|line| state.apply(line));
        state
    }

    fn joined(user: &str, name: Option<&str>) -> Line {
        let name = name.map(str::to_owned);
        Line::Joined(Joined { at_ms: 0, wall_ms: 0, user: user.into(), name, role: "guest".into() })
    }

    fn speak(at_ms: u64, users: &[&str]) -> Line {
        Line::Speakers(Speakers { at_ms, users: users.iter().map(|user| user.to_string()).collect() })
    }

    #[test]
    fn a_cue_for_each_time_somebody_speaks() {
        let left = Left { at_ms: 4000, wall_ms: 0, user: "bob".into(), reason: "left".into() };
        let state = state(&[
            joined("ann", Some("Ann <&>\n-->")),
            joined("bob", None),
            speak(500, &["ann"]),
            speak(2000, &["bob", "ann"]),
            speak(3000, &["bob"]),
            Line::Left(left),
            speak(3_661_000, &["ann"]),
            speak(3_661_000, &[]),
            speak(3_662_000, &["ann"]),
        ]);
        let text = captions(&state, 3_663_000);
        let ann = "Ann &lt;&amp;&gt; --&gt;";
        let expected = format!(
            "WEBVTT\n\n00:00:00.500 --> 00:00:03.000\n<v {ann}>{ann}\n\n00:00:02.000 --> 00:00:04.000\n<v bob>bob\n\n\
             01:01:02.000 --> 01:01:03.000\n<v {ann}>{ann}\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn silence_has_no_captions() {
        assert_eq!(captions(&state(&[joined("ann", None), speak(10, &[])]), 1000), "");
        // What would begin behind the end.
        assert_eq!(captions(&state(&[speak(1000, &["ann"])]), 1000), "");
    }
}
