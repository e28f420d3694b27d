//! RTP header extensions beyond those that str0m knows: what publishers say of their layers.
//!
//! Values pass as raw octets; [`crate::sfu`] reads them. See the AV1 RTP specification, appendix A (dependency descriptor).

use std::sync::Arc;

use str0m::rtp::vla::{self, VideoLayersAllocation};
use str0m::rtp::{Extension, ExtensionMap, ExtensionSerializer, ExtensionValues};

use crate::sfu::DependencyDescriptor;

pub(super) const DEPENDENCY_DESCRIPTOR: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

/// The extensions that this server offers and understands, by the numbers that Chromium uses. Other ones would collide with
/// those of an offer that it has rolled back, and it then never offers again.
pub fn map() -> ExtensionMap {
    let mut map = ExtensionMap::standard();
    map.set(5, Extension::PlayoutDelay);
    map.set(6, Extension::VideoContentType);
    map.set(9, Extension::with_serializer(vla::URI, AllocationReader));
    map.set(12, Extension::with_serializer(DEPENDENCY_DESCRIPTOR, DescriptorSerializer));
    map
}

#[derive(Debug)]
struct DescriptorSerializer;

impl ExtensionSerializer for DescriptorSerializer {
    fn write_to(&self, buf: &mut [u8], values: &ExtensionValues) -> usize {
        let Some(DependencyDescriptor(octets)) = values.user_values.get::<DependencyDescriptor>() else { return 0 };
        match buf.get_mut(..octets.len()) {
            Some(place) => {
                place.copy_from_slice(octets);
                octets.len()
            }
            None => 0,
        }
    }

    fn parse_value(&self, octets: &[u8], values: &mut ExtensionValues) -> bool {
        // Three octets are mandatory; more than 255 cannot be written again.
        if !(3..=255).contains(&octets.len()) {
            return false;
        }
        values.user_values.set(DependencyDescriptor(Arc::from(octets)));
        true
    }

    fn is_video(&self) -> bool {
        true
    }

    fn is_audio(&self) -> bool {
        false
    }

    fn requires_two_byte_form(&self, values: &ExtensionValues) -> bool {
        values.user_values.get::<DependencyDescriptor>().is_some_and(|descriptor| descriptor.0.len() > 16)
    }
}

/// Reads what a publisher allots to its layers. It is about the publisher's encodings and means nothing to subscribers, so
/// it is never written.
#[derive(Debug)]
struct AllocationReader;

impl ExtensionSerializer for AllocationReader {
    fn write_to(&self, _buf: &mut [u8], _values: &ExtensionValues) -> usize {
        0
    }

    fn parse_value(&self, octets: &[u8], values: &mut ExtensionValues) -> bool {
        vla::Serializer.parse_value(octets, values) && values.user_values.get::<VideoLayersAllocation>().is_some()
    }

    fn is_video(&self) -> bool {
        true
    }

    fn is_audio(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_passes_as_it_came() {
        let mut values = ExtensionValues::default();
        let octets: Vec<u8> = (0..40).collect();
        assert!(DescriptorSerializer.parse_value(&octets, &mut values));
        assert!(DescriptorSerializer.requires_two_byte_form(&values));
        let mut out = [0; 64];
        assert_eq!(DescriptorSerializer.write_to(&mut out, &values), 40);
        assert_eq!(out[..40], octets);
        assert_eq!(DescriptorSerializer.write_to(&mut out[..39], &values), 0, "what does not fit is left out");
    }

    #[test]
    fn a_short_or_long_descriptor_is_none() {
        for length in [0, 2, 256] {
            let mut values = ExtensionValues::default();
            assert!(!DescriptorSerializer.parse_value(&vec![1; length], &mut values), "{length} octets");
            assert!(!DescriptorSerializer.requires_two_byte_form(&values));
        }
    }

    #[test]
    fn the_numbers_do_not_collide() {
        let count = map().iter().count();
        assert_eq!(count, ExtensionMap::standard().iter().count() + 4);
    }
}
