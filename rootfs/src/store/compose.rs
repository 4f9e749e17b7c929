//! Images: read from their manifest, and put together from layers.

use drowse_api::Digest;
use oci_spec::image::{
    ConfigBuilder, Descriptor, HistoryBuilder, ImageConfiguration, ImageConfigurationBuilder, ImageManifest,
    ImageManifestBuilder, MediaType, RootFsBuilder,
};

use super::index::{oci_digest, own_digest};
use super::{Image, ImageStore, Layer, StoreError};

/// The most layers of an image: overlayfs takes 500, and the mount needs room for its own.
const MOST_LAYERS: usize = 128;

impl ImageStore {
    /// Reads the image of this manifest.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when a part of it is not here; [`StoreError::Unfit`] when its parts
    /// contradict each other.
    pub fn image(&self, manifest: &Digest) -> Result<Image, StoreError> {
        let digest = manifest.clone();
        let manifest: ImageManifest = self.document(&digest, "image manifest")?;
        let config: ImageConfiguration =
            self.document(&own_digest(manifest.config().digest())?, "image configuration")?;
        let unfit = |reason: String| StoreError::unfit(format!("image {digest}"), reason);
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != manifest.layers().len() {
            let (layers, ids) = (manifest.layers().len(), diff_ids.len());
            return Err(unfit(format!("its manifest has {layers} layers, its configuration {ids}")));
        }
        if diff_ids.len() > MOST_LAYERS {
            return Err(unfit(format!("it has more than {MOST_LAYERS} layers")));
        }
        let layers = manifest
            .layers()
            .iter()
            .zip(diff_ids)
            .map(|(descriptor, diff_id)| {
                Ok(Layer {
                    blob: own_digest(descriptor.digest())?,
                    size: descriptor.size(),
                    diff_id: Digest::parse(diff_id.clone()).map_err(|error| unfit(error.to_string()))?,
                    media_type: descriptor.media_type().clone(),
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        if let Some(missing) = layers.iter().find(|layer| !self.has_blob(&layer.blob)) {
            return Err(StoreError::Missing { digest: missing.blob.clone(), store: self.dir().to_owned() });
        }
        Ok(Image { digest, manifest, config, layers })
    }

    /// Puts `layers` on top of `base` (or of nothing), lets `change` set the rest of the
    /// configuration, and stores the image. The same parts always give the same digest.
    ///
    /// # Errors
    /// When a layer is not here or the image cannot be written.
    pub fn compose(
        &self,
        base: Option<&Image>,
        layers: &[Layer],
        change: &dyn Fn(&mut ImageConfiguration),
    ) -> Result<Digest, StoreError> {
        let unfit = |error: oci_spec::OciSpecError| StoreError::unfit("the new image", error.to_string());
        let all: Vec<&Layer> = base.iter().flat_map(|base| &base.layers).chain(layers).collect();
        if let Some(missing) = all.iter().find(|layer| !self.has_blob(&layer.blob)) {
            return Err(StoreError::Missing { digest: missing.blob.clone(), store: self.dir().to_owned() });
        }
        let mut config = match base {
            Some(base) => base.config.clone(),
            None => ImageConfigurationBuilder::default()
                .config(ConfigBuilder::default().build().map_err(unfit)?)
                .build()
                .map_err(unfit)?,
        };
        change(&mut config);
        let diff_ids: Vec<String> = all.iter().map(|layer| layer.diff_id.to_string()).collect();
        config.set_rootfs(RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build().map_err(unfit)?);
        // Of every layer the same: what it is of is in the deployment's record. Builders look for it in a base.
        let entry = HistoryBuilder::default().created_by("drowse").build().map_err(unfit)?;
        config.set_history(Some(vec![entry; all.len()]));
        let (config_digest, config_size) = self.put_sorted(&config)?;
        let descriptors = all
            .iter()
            .map(|layer| Ok(Descriptor::new(layer.media_type.clone(), layer.size, oci_digest(&layer.blob)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageManifest)
            .config(Descriptor::new(MediaType::ImageConfig, config_size, oci_digest(&config_digest)?))
            .layers(descriptors)
            .build()
            .map_err(unfit)?;
        Ok(self.put_sorted(&manifest)?.0)
    }

    /// Stores a document with its keys in order: the specification's types keep labels in hash
    /// maps, whose order changes from run to run.
    fn put_sorted(&self, document: &impl serde::Serialize) -> Result<(Digest, u64), StoreError> {
        let value = serde_json::to_value(document).map_err(|source| StoreError::Malformed {
            path: self.dir().to_owned(),
            what: "document",
            source,
        })?;
        self.put_document(&value)
    }
}
