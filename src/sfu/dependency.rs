//! The dependency descriptor: which frames a frame needs and for whom it is, in a header extension that end-to-end
//! encryption leaves clear. AV1 RTP payload specification of AOMedia, appendix A; other codecs use it as well.
//!
//! A descriptor can only be read with the [`Structure`] that came with the last key frame.

use std::sync::Arc;

use super::bits::BitReader;

/// The raw header extension, as it travels in `ExtensionValues::user_values`, both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DependencyDescriptor(pub Arc<[u8]>);

impl DependencyDescriptor {
    /// `None`: cut short.
    pub fn frame_number(&self) -> Option<u16> {
        let [_, high, low] = *self.0.first_chunk::<MANDATORY>()?;
        Some(u16::from_be_bytes([high, low]))
    }

    /// A copy with another frame number. Costs an allocation.
    pub fn with_frame_number(&self, number: u16) -> DependencyDescriptor {
        let mut copy: Arc<[u8]> = self.0.as_ref().into();
        if let Some(place) = Arc::get_mut(&mut copy).and_then(|bytes| bytes.get_mut(1..3)) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        DependencyDescriptor(copy)
    }
}

/// What a descriptor says about the frame its packet belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The first packet of the frame.
    pub starts: bool,
    /// The last packet of the frame.
    pub ends: bool,
    /// Rises by one with every frame of the encoding, of whatever layer; wraps.
    pub number: u16,
    /// Came with this descriptor: here a coded video sequence begins.
    pub structure: Option<Box<Structure>>,
    /// The decode targets that are being sent, one bit each; `None`: as before.
    pub active: Option<u32>,
    pub template: Template,
}

/// What frames have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub spatial: u8,
    pub temporal: u8,
    pub indications: Indications,
    /// How far back in frame numbers the frames are that this one needs.
    pub references: Few<u16, REFERENCES_MAX>,
    /// For each chain how far back the last frame of it is; 0: none before this.
    pub chains: Few<u8, DECODE_TARGETS_MAX>,
}

/// What a frame is to each decode target, one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Indications {
    /// The frame belongs to the decode target.
    pub present: u32,
    /// No other frame of the decode target needs it.
    pub discardable: u32,
    /// If the frame can be decoded, so can all that follow of the decode target.
    pub switch: u32,
}

/// The frames that an encoder makes, as templates, and the decode targets: ways to receive the encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// The id of the first template.
    first_id: u8,
    templates: Vec<Template>,
    targets: Vec<DecodeTarget>,
    chains: u8,
    /// Width and height by spatial layer; empty when not told.
    sizes: Vec<(u16, u16)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeTarget {
    /// The highest layer that belongs to it.
    pub spatial: u8,
    pub temporal: u8,
    /// The chain that protects it, if there are chains.
    pub chain: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DescriptorError {
    /// Cut short, or more of something than there can be.
    Malformed,
    /// The structure that it goes by is another, or was never seen.
    Unknown,
}

impl Descriptor {
    /// `known`: the structure of the last descriptor that had one.
    pub fn parse(bytes: &[u8], known: Option<&Structure>) -> Result<Descriptor, DescriptorError> {
        use DescriptorError::{Malformed, Unknown};

        let mut reader = BitReader::new(bytes);
        let starts = reader.bit().ok_or(Malformed)?;
        let ends = reader.bit().ok_or(Malformed)?;
        let id = reader.bits(6).ok_or(Malformed)? as u8;
        let number = reader.bits(16).ok_or(Malformed)? as u16;

        let (mut structure, mut active) = (None, None);
        let mut custom = [false; 3];
        if bytes.len() > MANDATORY {
            let flag = |reader: &mut BitReader<'_>| reader.bit().ok_or(Malformed);
            let has_structure = flag(&mut reader)?;
            let has_active = flag(&mut reader)?;
            custom = [flag(&mut reader)?, flag(&mut reader)?, flag(&mut reader)?];
            if has_structure {
                let read = Structure::parse(&mut reader).ok_or(Malformed)?;
                active = Some(read.all_targets());
                structure = Some(Box::new(read));
            }
            if has_active {
                let count = structure.as_deref().or(known).ok_or(Unknown)?.targets.len();
                active = Some(reader.bits(count as u32).ok_or(Malformed)?);
            }
        }
        let by = structure.as_deref().or(known).ok_or(Unknown)?;
        let mut template = by.template(id).ok_or(Unknown)?.clone();
        let [custom_indications, custom_references, custom_chains] = custom;
        if custom_indications {
            template.indications = Indications::parse(&mut reader, by.targets.len()).ok_or(Malformed)?;
        }
        if custom_references {
            template.references = custom_differences(&mut reader).ok_or(Malformed)?;
        }
        if custom_chains {
            template.chains = Few::default();
            for _ in 0..by.chains {
                let distance = reader.bits(8).ok_or(Malformed)? as u8;
                template.chains.push(distance).ok_or(Malformed)?;
            }
        }
        Ok(Descriptor { starts, ends, number, structure, active, template })
    }
}

/// References of one frame, each 1 to 3 nibbles long; 0 ends them.
fn custom_differences(reader: &mut BitReader<'_>) -> Option<Few<u16, REFERENCES_MAX>> {
    let mut references = Few::default();
    loop {
        let nibbles = reader.bits(2)?;
        if nibbles == 0 {
            return Some(references);
        }
        references.push(reader.bits(4 * nibbles)? as u16 + 1)?;
    }
}

impl Indications {
    fn parse(reader: &mut BitReader<'_>, targets: usize) -> Option<Indications> {
        let mut indications = Indications::default();
        for target in 0..targets {
            let bit = 1u32 << target;
            match reader.bits(2)? {
                0 => continue,
                1 => indications.discardable |= bit,
                2 => indications.switch |= bit,
                _ => {}
            }
            indications.present |= bit;
        }
        Some(indications)
    }
}

impl Structure {
    fn parse(reader: &mut BitReader<'_>) -> Option<Structure> {
        let first_id = reader.bits(6)? as u8;
        let target_count = reader.bits(5)? as usize + 1;
        let mut templates = Structure::parse_layers(reader)?;
        for template in &mut templates {
            template.indications = Indications::parse(reader, target_count)?;
        }
        for template in &mut templates {
            while reader.bit()? {
                template.references.push(reader.bits(4)? as u16 + 1)?;
            }
        }
        let chains = reader.below(target_count as u32 + 1)? as u8;
        let mut protected_by = [None; DECODE_TARGETS_MAX];
        if chains > 0 {
            for chain in protected_by.iter_mut().take(target_count) {
                *chain = Some(reader.below(chains.into())? as u8);
            }
            for template in &mut templates {
                for _ in 0..chains {
                    template.chains.push(reader.bits(4)? as u8)?;
                }
            }
        }
        let mut sizes = Vec::new();
        if reader.bit()? {
            let highest = templates.iter().map(|t| t.spatial).max()?;
            for _ in 0..=highest {
                let mut read = || Some(u16::try_from(reader.bits(16)? + 1).unwrap_or(u16::MAX));
                sizes.push((read()?, read()?));
            }
        }
        let target = |index: usize| {
            let belongs = templates.iter().filter(move |t| t.indications.present >> index & 1 == 1);
            let spatial = belongs.clone().map(|t| t.spatial).max().unwrap_or(0);
            let temporal = belongs.filter(|t| t.spatial == spatial).map(|t| t.temporal).max().unwrap_or(0);
            DecodeTarget { spatial, temporal, chain: protected_by.get(index).copied().flatten() }
        };
        let targets = (0..target_count).map(target).collect();
        Some(Structure { first_id, templates, targets, chains, sizes })
    }

    /// The templates with their layers alone.
    fn parse_layers(reader: &mut BitReader<'_>) -> Option<Vec<Template>> {
        let (mut spatial, mut temporal) = (0, 0);
        let mut templates = Vec::new();
        loop {
            if templates.len() >= TEMPLATES_MAX || spatial >= SPATIAL_MAX || temporal >= TEMPORAL_MAX {
                return None;
            }
            templates.push(Template {
                spatial,
                temporal,
                indications: Indications::default(),
                references: Few::default(),
                chains: Few::default(),
            });
            match reader.bits(2)? {
                0 => {}
                1 => temporal += 1,
                2 => (spatial, temporal) = (spatial + 1, 0),
                _ => return Some(templates),
            }
        }
    }

    /// The template with an id. `None`: it is one of another structure.
    fn template(&self, id: u8) -> Option<&Template> {
        let index = (id + TEMPLATES_MAX as u8 - self.first_id) % TEMPLATES_MAX as u8;
        self.templates.get(usize::from(index))
    }

    /// At least one.
    pub fn targets(&self) -> &[DecodeTarget] {
        &self.targets
    }

    /// The decode targets all of whose frames belong to this one as well, as far as the templates tell.
    pub fn within(&self, target: u8) -> u32 {
        let outside = self.templates.iter().filter(|t| t.indications.present >> (target & 31) & 1 == 0);
        !outside.fold(0, |targets, template| targets | template.indications.present) & self.all_targets()
    }

    pub fn all_targets(&self) -> u32 {
        u32::MAX >> (DECODE_TARGETS_MAX - self.targets.len())
    }

    /// Width and height by spatial layer; empty when not told.
    pub fn sizes(&self) -> &[(u16, u16)] {
        &self.sizes
    }
}

/// A list that is short by its nature, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Few<T, const MAX: usize> {
    items: [T; MAX],
    count: usize,
}

impl<T: Copy + Default, const MAX: usize> Default for Few<T, MAX> {
    fn default() -> Self {
        Few { items: [T::default(); MAX], count: 0 }
    }
}

impl<T, const MAX: usize> Few<T, MAX> {
    /// `None`: full.
    fn push(&mut self, item: T) -> Option<()> {
        *self.items.get_mut(self.count)? = item;
        self.count += 1;
        Some(())
    }

    pub fn as_slice(&self) -> &[T] {
        self.items.get(..self.count).unwrap_or(&[])
    }
}

/// Octets that every descriptor has.
const MANDATORY: usize = 3;
/// By the width of its field.
pub const DECODE_TARGETS_MAX: usize = 32;
/// By the width of a template's id.
const TEMPLATES_MAX: usize = 64;
/// AV1 refers to 7 frames at most.
pub const REFERENCES_MAX: usize = 8;
/// AV1 numbers spatial layers with 2 bits, temporal layers with 3.
const SPATIAL_MAX: u8 = 4;
const TEMPORAL_MAX: u8 = 8;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a template is made of.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TemplateSpec {
        pub spatial: u8,
        pub temporal: u8,
        pub indications: Vec<Indication>,
        pub references: Vec<u16>,
        pub chains: Vec<u8>,
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct StructureSpec {
        pub first_id: u8,
        pub templates: Vec<TemplateSpec>,
        /// Spatial and temporal layer of each; known to the encoder, not written.
        pub targets: Vec<(u8, u8)>,
        pub chains: u8,
        pub protected_by: Vec<u8>,
        pub sizes: Vec<(u16, u16)>,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Indication {
        NotPresent,
        Discardable,
        Switch,
        Required,
    }

    /// Writes bits, most significant first.
    #[derive(Default)]
    struct Writer(Vec<bool>);

    impl Writer {
        fn bits(&mut self, value: u32, count: u32) {
            self.0.extend((0..count).rev().map(|n| value >> n & 1 == 1));
        }

        fn below(&mut self, value: u32, values: u32) {
            let width = u32::BITS - values.leading_zeros();
            let spare = (1 << width) - values;
            if value < spare {
                self.bits(value, width - 1);
            } else {
                self.bits(value + spare, width);
            }
        }

        fn octets(self) -> Vec<u8> {
            let octet = |c: &[bool]| c.iter().enumerate().map(|(n, b)| u8::from(*b) << (7 - n)).sum();
            self.0.chunks(8).map(octet).collect()
        }
    }

    /// Writes a descriptor: first packet, last packet, template id, frame number; then what is not in the template.
    pub fn write(
        (starts, ends, template, number): (bool, bool, u8, u16),
        structure: &StructureSpec,
        has_structure: bool,
        active: Option<u32>,
        indications: Option<&[Indication]>,
        references: Option<&[u16]>,
        chains: Option<&[u8]>,
    ) -> Vec<u8> {
        let mut w = Writer::default();
        w.bits(starts.into(), 1);
        w.bits(ends.into(), 1);
        w.bits(template.into(), 6);
        w.bits(number.into(), 16);
        let custom = [indications.is_some(), references.is_some(), chains.is_some()];
        if !has_structure && active.is_none() && custom == [false; 3] {
            return w.octets();
        }
        for flag in [has_structure, active.is_some(), custom[0], custom[1], custom[2]] {
            w.bits(flag.into(), 1);
        }
        if has_structure {
            write_structure(&mut w, structure);
        }
        if let Some(active) = active {
            w.bits(active, structure.targets.len() as u32);
        }
        for indication in indications.unwrap_or(&[]) {
            w.bits(*indication as u32, 2);
        }
        if let Some(references) = references {
            for reference in references {
                let nibbles = match reference {
                    0..=16 => 1,
                    17..=256 => 2,
                    _ => 3,
                };
                w.bits(nibbles, 2);
                w.bits(u32::from(*reference) - 1, 4 * nibbles);
            }
            w.bits(0, 2);
        }
        for chain in chains.unwrap_or(&[]) {
            w.bits((*chain).into(), 8);
        }
        w.octets()
    }

    fn write_structure(w: &mut Writer, structure: &StructureSpec) {
        w.bits(structure.first_id.into(), 6);
        w.bits(structure.targets.len() as u32 - 1, 5);
        for (n, template) in structure.templates.iter().enumerate() {
            w.bits(
                match structure.templates.get(n + 1) {
                    None => 3,
                    Some(next) if next.spatial > template.spatial => 2,
                    Some(next) if next.temporal > template.temporal => 1,
                    Some(_) => 0,
                },
                2,
            );
        }
        for indication in structure.templates.iter().flat_map(|t| &t.indications) {
            w.bits(*indication as u32, 2);
        }
        for template in &structure.templates {
            for reference in &template.references {
                w.bits(1, 1);
                w.bits(u32::from(*reference) - 1, 4);
            }
            w.bits(0, 1);
        }
        w.below(structure.chains.into(), structure.targets.len() as u32 + 1);
        if structure.chains > 0 {
            for chain in &structure.protected_by {
                w.below((*chain).into(), structure.chains.into());
            }
            for chain in structure.templates.iter().flat_map(|t| &t.chains) {
                w.bits((*chain).into(), 4);
            }
        }
        w.bits((!structure.sizes.is_empty()).into(), 1);
        for (width, height) in &structure.sizes {
            w.bits(u32::from(*width) - 1, 16);
            w.bits(u32::from(*height) - 1, 16);
        }
    }

    use Indication::{Discardable, NotPresent, Required, Switch};

    /// Two spatial layers, of two temporal layers each.
    fn structure() -> StructureSpec {
        let template = |spatial, temporal, indications: [Indication; 4], references: &[u16], chains: [u8; 2]| {
            let (references, chains) = (references.to_vec(), chains.to_vec());
            TemplateSpec { spatial, temporal, indications: indications.to_vec(), references, chains }
        };
        StructureSpec {
            first_id: 62,
            templates: vec![
                template(0, 0, [Switch, Switch, Switch, Switch], &[], [0, 0]),
                template(0, 0, [Switch, Switch, Required, Required], &[4], [4, 3]),
                template(0, 1, [NotPresent, Discardable, NotPresent, Required], &[2], [2, 1]),
                template(1, 0, [NotPresent, NotPresent, Switch, Switch], &[4, 1], [1, 1]),
                template(1, 1, [NotPresent, NotPresent, NotPresent, Discardable], &[2, 1], [3, 2]),
            ],
            targets: vec![(0, 0), (0, 1), (1, 0), (1, 1)],
            chains: 2,
            protected_by: vec![0, 0, 1, 1],
            sizes: vec![(320, 180), (640, 360)],
        }
    }

    fn indications(of: &[Indication]) -> Indications {
        let mask = |wanted: &[Indication]| {
            of.iter().enumerate().filter(|(_, i)| wanted.contains(i)).map(|(n, _)| 1 << n).sum()
        };
        Indications {
            present: mask(&[Discardable, Switch, Required]),
            discardable: mask(&[Discardable]),
            switch: mask(&[Switch]),
        }
    }

    #[test]
    fn a_structure_is_read_as_it_was_written() {
        let spec = structure();
        let bytes = write((true, false, 62, 0xfffe), &spec, true, None, None, None, None);
        let descriptor = Descriptor::parse(&bytes, None).unwrap();
        assert_eq!((descriptor.starts, descriptor.ends, descriptor.number), (true, false, 0xfffe));
        assert_eq!(descriptor.active, Some(0b1111));
        let read = *descriptor.structure.unwrap();
        assert_eq!(read.sizes(), spec.sizes);
        let targets: Vec<_> = read.targets().iter().map(|t| ((t.spatial, t.temporal), t.chain)).collect();
        let expect: Vec<_> = spec.targets.iter().copied().zip(spec.protected_by.iter().map(|c| Some(*c))).collect();
        assert_eq!(targets, expect);
        for (n, template) in spec.templates.iter().enumerate() {
            // The id wraps.
            let id = ((62 + n) % 64) as u8;
            let bytes = write((false, true, id, 7), &spec, false, None, None, None, None);
            assert_eq!(bytes.len(), 3);
            let got = Descriptor::parse(&bytes, Some(&read)).unwrap();
            assert_eq!((got.starts, got.ends, got.number, got.active), (false, true, 7, None));
            assert_eq!((got.template.spatial, got.template.temporal), (template.spatial, template.temporal));
            assert_eq!(got.template.indications, indications(&template.indications));
            assert_eq!(got.template.references.as_slice(), template.references);
            assert_eq!(got.template.chains.as_slice(), template.chains);
        }
        assert_eq!([0, 1, 2, 3].map(|target| read.within(target)), [0b0001, 0b0011, 0b0101, 0b1111]);
        // An id of another structure, and no structure at all.
        let bytes = write((true, true, 3, 7), &spec, false, None, None, None, None);
        assert_eq!(Descriptor::parse(&bytes, Some(&read)), Err(DescriptorError::Unknown));
        let bytes = write((true, true, 62, 7), &spec, false, None, None, None, None);
        assert_eq!(Descriptor::parse(&bytes, None), Err(DescriptorError::Unknown));
    }

    #[test]
    fn what_is_not_in_the_template() {
        let spec = structure();
        let key = write((true, true, 62, 1), &spec, true, None, None, None, None);
        let read = *Descriptor::parse(&key, None).unwrap().structure.unwrap();
        let custom = [NotPresent, Discardable, Required, Switch];
        let bytes = write(
            (true, true, 1, 9),
            &spec,
            false,
            Some(0b0011),
            Some(&custom),
            Some(&[1, 16, 17, 256, 257, 4096]),
            Some(&[200, 9]),
        );
        let got = Descriptor::parse(&bytes, Some(&read)).unwrap();
        assert_eq!(got.active, Some(0b0011));
        assert_eq!(got.template.indications, indications(&custom));
        assert_eq!(got.template.references.as_slice(), [1, 16, 17, 256, 257, 4096]);
        assert_eq!(got.template.chains.as_slice(), [200, 9]);
        assert_eq!((got.template.spatial, got.template.temporal), (1, 0), "the rest is the template's");
        for end in 0..bytes.len() {
            assert!(Descriptor::parse(&bytes[..end], Some(&read)).is_err() || end == 3, "cut to {end}");
        }
        // With a structure and everything else at once.
        let bytes = write((true, true, 62, 9), &spec, true, Some(1), Some(&custom), Some(&[3]), Some(&[1, 2]));
        let got = Descriptor::parse(&bytes, None).unwrap();
        assert_eq!((got.active, got.template.references.as_slice()), (Some(1), &[3][..]));
        for end in 0..bytes.len() {
            assert!(Descriptor::parse(&bytes[..end], None).is_err(), "cut to {end}");
        }
    }

    #[test]
    fn bounds() {
        let mut spec = structure();
        spec.chains = 0;
        spec.protected_by.clear();
        spec.sizes.clear();
        spec.templates.iter_mut().for_each(|t| t.chains.clear());
        let bytes = write((true, true, 62, 1), &spec, true, None, None, None, None);
        let descriptor = Descriptor::parse(&bytes, None).unwrap();
        let read = descriptor.structure.unwrap();
        assert!(read.sizes().is_empty() && read.targets().iter().all(|t| t.chain.is_none()));
        assert!(descriptor.template.chains.as_slice().is_empty());
        // The most there can be.
        let template = spec.templates[0].clone();
        spec.templates = vec![TemplateSpec { indications: vec![Required; 32], references: vec![1; 8], ..template }; 64];
        spec.targets = vec![(0, 0); 32];
        let bytes = write((true, true, 61, 1), &spec, true, None, None, None, None);
        let read = Descriptor::parse(&bytes, None).unwrap();
        assert_eq!((read.active, read.template.indications.present), (Some(u32::MAX), u32::MAX));
        // One more.
        spec.templates[5].references.push(1);
        let bytes = write((true, true, 61, 1), &spec, true, None, None, None, None);
        assert_eq!(Descriptor::parse(&bytes, None), Err(DescriptorError::Malformed));
        spec.templates[5].references.clear();
        spec.templates.push(spec.templates[0].clone());
        let bytes = write((true, true, 61, 1), &spec, true, None, None, None, None);
        assert_eq!(Descriptor::parse(&bytes, None), Err(DescriptorError::Malformed));
    }

    #[test]
    fn another_frame_number() {
        let spec = structure();
        let bytes = write((true, false, 62, 5), &spec, true, None, None, None, None);
        let changed = DependencyDescriptor(bytes.clone().into()).with_frame_number(0xabcd);
        assert_eq!(changed.frame_number(), Some(0xabcd));
        let (before, after) = (Descriptor::parse(&bytes, None).unwrap(), Descriptor::parse(&changed.0, None).unwrap());
        assert_eq!(Descriptor { number: 5, ..after }, before);
        let short = DependencyDescriptor([1, 2][..].into());
        assert_eq!((short.frame_number(), short.with_frame_number(7)), (None, short.clone()));
    }

    #[test]
    fn arbitrary_bytes_are_survived() {
        let mut random = fastrand::Rng::with_seed(0xdd);
        let spec = structure();
        let key = write((true, true, 62, 1), &spec, true, None, None, None, None);
        let known = *Descriptor::parse(&key, None).unwrap().structure.unwrap();
        for n in 0..60_000 {
            let mut bytes: Vec<u8> = if n % 2 == 0 { key.clone() } else { vec![0; random.usize(0..60)] };
            for _ in 0..random.usize(1..6) {
                if let Some(octet) = bytes.get_mut(random.usize(0..60)) {
                    *octet = random.u8(..);
                }
            }
            let _ = Descriptor::parse(&bytes, Some(&known));
            let _ = Descriptor::parse(&bytes, None);
        }
    }
}
