//! Data sets from the Hugging Face hub, in the parquet form that the hub makes of every data set.
//!
//! The hub's cache is asked first, and what is whole there needs no network. `HF_HUB_OFFLINE` forbids any request. The cache is
//! that of all programs of the hub: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.

mod cache;
#[cfg(feature = "hub")]
mod download;

#[cfg(feature = "hub")]
use self::cache::PARQUET;
use self::cache::{Snapshot, cache, snapshots};
#[cfg(feature = "hub")]
use super::content;
use super::source::{Files, Location};
use super::{DataError, ImageData, ImageDataset, decoded, parquet};
use ds_core::backend::sync::lock;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// One thread downloads at a time; the next finds the files in the cache.
static DOWNLOADING: Mutex<()> = Mutex::new(());

/// `owner/name` on the hub.
fn repository(dataset: ImageDataset) -> &'static str {
    match dataset {
        ImageDataset::Mnist => "ylecun/mnist",
        ImageDataset::FashionMnist => "zalando-datasets/fashion_mnist",
        ImageDataset::Cifar10 => "uoft-cs/cifar10",
        ImageDataset::Cifar100 => "uoft-cs/cifar100",
    }
}

/// The size of both splits on the hub, in 10⁶ bytes.
fn megabytes(dataset: ImageDataset) -> u32 {
    match dataset {
        ImageDataset::Mnist => 18,
        ImageDataset::FashionMnist => 31,
        ImageDataset::Cifar10 => 144,
        ImageDataset::Cifar100 => 142,
    }
}

/// Whether `HF_HUB_OFFLINE` forbids requests; its values are those of the hub's Python library.
fn is_offline() -> bool {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_uppercase();
    matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
}

/// Why nothing can be downloaded, and how to change that.
fn refusal() -> Option<&'static str> {
    if is_offline() {
        Some("HF_HUB_OFFLINE forbids to download it: unset HF_HUB_OFFLINE")
    } else if cfg!(not(feature = "hub")) {
        Some("this program was built without downloads: build it with the feature `hub`, which is a default one")
    } else {
        None
    }
}

/// The files of both splits in the cache.
fn cached(dataset: ImageDataset) -> Option<Files> {
    let files = |snapshot: Snapshot| parquet::find(dataset, &snapshot.directory).ok().flatten();
    snapshots(repository(dataset)).into_iter().find_map(files)
}

/// The cache or a download; `tried` are the directories where the data set was not.
pub(super) fn locate(dataset: ImageDataset, tried: Vec<PathBuf>) -> Result<Location, DataError> {
    let repository = repository(dataset);
    if let Some(files) = cached(dataset) {
        return Ok(Location::Cached { repository, files });
    }
    match refusal() {
        Some(reason) => Err(DataError::NoDownload { dataset, tried, cache: cache(), reason, remedy: dataset.remedy() }),
        None => Ok(Location::Download { repository, megabytes: megabytes(dataset) }),
    }
}

/// Both splits from the cache, after a download if they are not there. A damaged file in the cache is fetched again, once.
pub(super) fn load(dataset: ImageDataset, tried: &[PathBuf]) -> Result<ImageData, DataError> {
    let _one_at_a_time = lock(&DOWNLOADING);
    let origin = format!("hub ({})", repository(dataset));
    let mut fetched = Vec::new();
    let mut files = match cached(dataset) {
        Some(files) => files,
        None => fetch(dataset, None, &mut fetched).map_err(|problem| DataError::Hub {
            dataset,
            tried: tried.to_vec(),
            problem,
            remedy: dataset.remedy(),
        })?,
    };
    loop {
        let error = match decoded::load(dataset, &files, origin.clone()) {
            Ok(data) => return Ok(data),
            Err(error) => error,
        };
        let DataError::Content { path, problem, remedy } = error else { return Err(error) };
        // The link of a snapshot leads to the file itself.
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let problem = if real == path { problem } else { format!("{problem} (the link leads to {})", real.display()) };
        let damaged = |more: &str| DataError::content(&path, format!("{problem}{more}"), remedy.clone());
        if let Some(reason) = refusal() {
            return Err(damaged(&format!("; it is not fetched again, since {reason}")));
        }
        if fetched.contains(&path) {
            return Err(damaged(", also after it was fetched again"));
        }
        crate::status!("{}: {problem}; fetching the file again", path.display());
        files = fetch(dataset, Some(&path), &mut fetched)
            .map_err(|error| damaged(&format!("; fetching it again failed ({error})")))?;
    }
}

/// Downloads what the cache lacks, and a damaged file of it again; `fetched` grows by the files that were fetched again.
#[cfg(feature = "hub")]
fn fetch(dataset: ImageDataset, damaged: Option<&Path>, fetched: &mut Vec<PathBuf>) -> Result<Files, String> {
    let repository = repository(dataset);
    let client = download::Client::new(repository, cache())?;
    if let Some(path) = damaged {
        client.again(path)?;
        fetched.push(path.to_owned());
    } else {
        let (megabytes, cache) = (megabytes(dataset), cache());
        crate::status!(
            "{dataset} is in no local directory; fetching {repository} (some {megabytes} MB) from the Hugging Face hub \
             into {}",
            cache.display()
        );
    }
    client.all(fetched)?;
    cached(dataset).ok_or_else(|| match client.unreadable().first() {
        Some(path) => {
            let beginning = content::beginning(path);
            content::problem(
                &beginning,
                format!("{} is no parquet file, also after it was fetched again", path.display()),
            )
        }
        None => format!("{repository} has no whole set of parquet files at {PARQUET}"),
    })
}

#[cfg(not(feature = "hub"))]
fn fetch(_: ImageDataset, _: Option<&Path>, _: &mut Vec<PathBuf>) -> Result<Files, String> {
    Err(refusal().unwrap_or_default().to_owned())
}
