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
