//! Images that others made, by a Dockerfile or a registry: what of their configuration counts here, and what is
//! said of the rest.

use std::collections::BTreeSet;

use drowse_api::Digest;
use drowse_api::deployment::AppType;
use drowse_api::image::{LABEL_PORT, LABEL_START, LABEL_START_ORIGIN, LABEL_TYPE, LABELS};
use drowse_rootfs::{ImageStore, StoreError};
use oci_spec::image::ImageConfiguration;

use super::docker::CERTIFICATES;
use crate::host::image::stop_signal;

/// The image as Drowse runs it, and sentences for the log. What starts it instead of its own entrypoint and command is
/// `start`. Blocking.
///
/// # Errors
/// When it is not whole, or the new one cannot be stored.
pub(super) fn taken(
    store: &ImageStore,
    image: &Digest,
    app_type: AppType,
    start: Option<&str>,
) -> Result<(Digest, Vec<String>), StoreError> {
    let image = store.image(image)?;
    let mut notes = Vec::new();
    let config = image.config.config().clone().unwrap_or_default();
    let port = port(config.exposed_ports().as_deref().unwrap_or_default());
    match &port {
        Ok(Some(port)) => notes.push(format!("EXPOSE {port}: PORT is {port}")),
        Ok(None) => {}
        Err(count) => notes.push(format!("EXPOSE names {count} ports: PORT says where visitors come, 8080")),
    }
    if let Some(signal) = config.stop_signal()
        && stop_signal(Some(signal)).is_none()
    {
        notes.push(format!(
            "STOPSIGNAL {:?} is no signal: SIGTERM is sent",
            signal.chars().take(20).collect::<String>()
        ));
    }
    if config.volumes().as_ref().is_some_and(|volumes| !volumes.is_empty()) {
        notes.push("VOLUME has no effect: what the app writes ends with the next deploy".to_owned());
    }
    if let Some(line) = start {
        notes.push(format!("start command (drowse.toml): {line}"));
    }
    let port = port.ok().flatten();
    let changed = store.compose(Some(&image), &[], &|config| mark(config, app_type, port, start))?;
    Ok((changed, notes))
}

/// Labels of ours are ours alone: they decide on how an image is run.
fn mark(config: &mut ImageConfiguration, app_type: AppType, port: Option<u16>, start: Option<&str>) {
    let mut inner = config.config().clone().unwrap_or_default();
    let mut labels = inner.labels().clone().unwrap_or_default();
    labels.retain(|name, _| !name.starts_with(LABELS));
    labels.insert(LABEL_TYPE.to_owned(), app_type.to_string());
    if let Some(port) = port {
        labels.insert(LABEL_PORT.to_owned(), port.to_string());
    }
    if let Some(line) = start {
        labels.insert(LABEL_START.to_owned(), line.to_owned());
        labels.insert(LABEL_START_ORIGIN.to_owned(), "drowse.toml".to_owned());
    }
    inner.set_labels(Some(labels));
    // What showed RUN the certificates; they are nowhere else.
    let is_ours = |pair: &String| pair.split_once('=').is_some_and(|(_, value)| value == CERTIFICATES);
    let env = inner.env().clone().map(|env| env.into_iter().filter(|pair| !is_ours(pair)).collect::<Vec<_>>());
    inner.set_env(env);
    if inner.working_dir().as_ref().is_none_or(String::is_empty) {
        inner.set_working_dir(Some("/".to_owned()));
    }
    config.set_config(Some(inner));
}

/// The one TCP port that is exposed; how many there are if there are several.
fn port(exposed: &[String]) -> Result<Option<u16>, usize> {
    let ports: BTreeSet<u16> = exposed
        .iter()
        .filter_map(|text| match text.split_once('/') {
            None => text.parse().ok(),
            Some((port, protocol)) => port.parse().ok().filter(|_| protocol.eq_ignore_ascii_case("tcp")),
        })
        .filter(|port| *port > 0)
        .collect();
    if ports.len() > 1 { Err(ports.len()) } else { Ok(ports.first().copied()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_pinned_becomes_a_label_of_ours() {
        let marked = |start| {
            let mut config = ImageConfiguration::default();
            let mut inner = oci_spec::image::Config::default();
            inner.set_labels(Some([(LABEL_START.to_owned(), "of a stranger".to_owned())].into()));
            config.set_config(Some(inner));
            mark(&mut config, AppType::Docker, None, start);
            config.labels_of_config().and_then(|labels| labels.get(LABEL_START)).cloned()
        };
        assert_eq!(marked(None), None);
        assert_eq!(marked(Some("exec mine")).as_deref(), Some("exec mine"));
    }

    #[test]
    fn one_tcp_port_is_the_port() {
        let ports = |texts: &[&str]| port(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(ports(&["3000"]), Ok(Some(3000)));
        assert_eq!(ports(&["3000/tcp", "3000", "53/udp"]), Ok(Some(3000)));
        assert_eq!(ports(&[]), Ok(None));
        assert_eq!(ports(&["53/udp", "x", "0/tcp"]), Ok(None));
        assert_eq!(ports(&["80/tcp", "443/TCP"]), Err(2));
    }
}
