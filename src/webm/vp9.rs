//! VP9 in Matroska: optional private data as the WebM container guidelines give it, a list of features. It is not the `vpcC`
//! box of ISO files.

/// Features of a sequence. Players work without; it tells them beforehand whether they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// 0 to 3.
    pub profile: u8,
    /// Ten times the level, e.g. 31. `None`: not known.
    pub level: Option<u8>,
    /// 8, 10 or 12.
    pub bit_depth: u8,
    /// 0: 4:2:0 vertical, 1: 4:2:0 colocated, 2: 4:2:2, 3: 4:4:4.
    pub chroma: u8,
}

impl Features {
    /// Each as its id, the length of its value, and its value.
    pub fn encode(&self) -> Vec<u8> {
        let features = [(1, Some(self.profile)), (2, self.level), (3, Some(self.bit_depth)), (4, Some(self.chroma))];
        features.into_iter().filter_map(|(id, value)| Some([id, 1, value?])).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_features() {
        let features = Features { profile: 0, level: Some(31), bit_depth: 8, chroma: 1 };
        assert_eq!(features.encode(), [1, 1, 0, 2, 1, 31, 3, 1, 8, 4, 1, 1]);
        assert_eq!(Features { level: None, ..features }.encode(), [1, 1, 0, 3, 1, 8, 4, 1, 1]);
    }
}
