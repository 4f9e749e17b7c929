//! How Drowse's own facts are written into an OCI image's configuration.

/// Label with the app's type: `static`, `npm`, `python`, `docker`, `image` or `bundle`.
pub const LABEL_TYPE: &str = "dev.drowse.type";

/// Label with the start command as a shell line, run by bash after `.profile`. Images without it
/// start with their `Entrypoint` and `Cmd`.
pub const LABEL_START: &str = "dev.drowse.start";

/// Label that says where the start command came from, for the log: `Procfile`, `package.json`, …
pub const LABEL_START_ORIGIN: &str = "dev.drowse.start-origin";

/// What labels of ours begin with. Images of others have none.
pub const LABELS: &str = "dev.drowse.";

/// Label with the port that an image of others listens on, where it says so.
pub const LABEL_PORT: &str = "dev.drowse.port";

/// The folder of the app inside images that we build.
pub const APP_FOLDER: &str = "/app";

/// The id, inside images, of the unprivileged user and group that apps run as.
pub const APP_ID: u32 = 1000;
