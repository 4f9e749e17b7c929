//! How the root of an instance is put together: which folders an overlay joins, and whose ids the
//! files appear with. The launcher mounts it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A contiguous range of host ids that stands for the ids 0 to `count - 1` of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdRange {
    /// The host id of the image's id 0.
    pub first: u32,
    /// How many ids the range has.
    pub count: u32,
}

impl IdRange {
    /// The ids of the image as they are on the host: no mapping at all.
    pub const IDENTITY: Self = Self { first: 0, count: u32::MAX };

    /// The host id for `id` of the image, if the range reaches that far.
    #[must_use]
    pub fn to_host(self, id: u32) -> Option<u32> {
        (id < self.count).then(|| self.first.checked_add(id)).flatten()
    }

    /// The image's id for `id` of the host, if it is in the range.
    #[must_use]
    pub fn to_image(self, id: u32) -> Option<u32> {
        id.checked_sub(self.first).filter(|inside| *inside < self.count)
    }
}

/// The overlay that is an instance's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayPlan {
    /// Unpacked layers, the top one first (the order of overlayfs's `lowerdir`). Their files carry
    /// the image's ids and are mounted with an id map to `ids`.
    pub lowers: Vec<PathBuf>,
    /// The image of a disk that holds `upper` and `work`, which are then names in it; none where they
    /// are folders of the host.
    #[serde(default)]
    pub disk: Option<PathBuf>,
    /// What the instance changed. Its files carry host ids of `ids`.
    pub upper: PathBuf,
    /// overlayfs's work folder, on the same file system as `upper`.
    pub work: PathBuf,
    /// The host ids that the image's ids become.
    pub ids: IdRange,
}

impl OverlayPlan {
    /// A plan over `layers` as the store gives them (the bottom one first), with `upper` and `work`
    /// inside `folder`. Of a layer that is there twice, as empty ones of images often are, the upper one counts:
    /// it covers all of the lower, and overlayfs refuses to have one folder twice.
    #[must_use]
    pub fn new(layers: &[PathBuf], folder: &std::path::Path, ids: IdRange) -> Self {
        let mut lowers: Vec<PathBuf> = Vec::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            if !lowers.contains(layer) {
                lowers.push(layer.clone());
            }
        }
        Self { lowers, disk: None, upper: folder.join("upper"), work: folder.join("work"), ids }
    }

    /// The same with `upper` and `work` on the disk whose image is `disk`.
    #[must_use]
    pub fn on_disk(self, disk: PathBuf) -> Self {
        Self { disk: Some(disk), upper: "upper".into(), work: "work".into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_mapped_to_the_host_and_back_is_the_same(first in any::<u32>(), count in any::<u32>(), id in any::<u32>()) {
            let range = IdRange { first, count };
            if let Some(host) = range.to_host(id) {
                prop_assert_eq!(range.to_image(host), Some(id));
            }
        }

        #[test]
        fn an_id_outside_the_range_has_no_image_id(first in 1..u32::MAX, id in any::<u32>()) {
            let range = IdRange { first, count: 65_536 };
            let inside = id >= first && u64::from(id) < u64::from(first) + 65_536;
            prop_assert_eq!(range.to_image(id).is_some(), inside);
        }
    }

    #[test]
    fn a_layer_that_is_there_twice_is_joined_once_where_it_is_uppermost() {
        let layers = ["/layers/base", "/layers/empty", "/layers/app", "/layers/empty"].map(PathBuf::from);
        let plan = OverlayPlan::new(&layers, std::path::Path::new("/i"), IdRange { first: 65_536, count: 65_536 });
        assert_eq!(plan.lowers, ["/layers/empty", "/layers/app", "/layers/base"].map(PathBuf::from));
    }

    #[test]
    fn the_last_layer_of_the_image_is_the_first_lower_folder() {
        let layers = [PathBuf::from("/layers/base"), PathBuf::from("/layers/app")];
        let plan = OverlayPlan::new(&layers, std::path::Path::new("/i"), IdRange { first: 65_536, count: 65_536 });
        assert_eq!(plan.lowers, [PathBuf::from("/layers/app"), PathBuf::from("/layers/base")]);
    }
}
