//! Whether a run follows the original's protocol.

use super::sections::Config;

/// "full", or "reduced: …" with what is less than in the experiment's defaults.
pub fn protocol(config: &Config, is_sample: bool) -> String {
    let text = format!("experiment = \"{}\"\nnetwork.kind = \"{}\"\n", config.experiment, config.network.kind);
    let mut reduced = Vec::new();
    if is_sample {
        reduced.push("shipped sample instead of the data set".to_owned());
    }
    if let Ok(full) = Config::from_toml(&text) {
        let mut less = |ours: usize, full: usize, what: &str| {
            if ours < full {
                reduced.push(format!("{ours} of {full} {what}"));
            }
        };
        less(config.train.epochs, full.train.epochs, "epochs");
        less(config.data.train_points, full.data.train_points, "training points");
        less(config.data.test_grid, full.data.test_grid, "test cells a side");
    }
    let (train, test) = config.data.dataset.image_counts().unwrap_or_default();
    for (limit, all, what) in
        [(config.train.max_train_images, train, "training images"), (config.train.max_test_images, test, "test images")]
    {
        if limit > 0 && limit < all {
            reduced.push(format!("first {limit} {what}"));
        }
    }
    if reduced.is_empty() { "full".to_owned() } else { format!("reduced: {}", reduced.join(", ")) }
}
