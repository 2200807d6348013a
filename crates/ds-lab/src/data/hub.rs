//! Data sets from the Hugging Face hub, in the parquet form that the hub makes of every data set.
//!
//! Files are fetched and cached by the hub's client, as `candle-datasets` does it; they are decoded here, to bytes and in
//! the order (channel, row, column).

use super::{DataError, ImageData, ImageDataset, Part, parquet};
use ::parquet::file::reader::SerializedFileReader;
use candle_datasets::hub::{FileReader, from_hub};
use hf_hub::HFClientSync;
use std::fs::File;
use std::path::{Path, PathBuf};

fn repository(dataset: ImageDataset) -> &'static str {
    match dataset {
        ImageDataset::Mnist => "ylecun/mnist",
        ImageDataset::FashionMnist => "zalando-datasets/fashion_mnist",
        ImageDataset::Cifar10 => "uoft-cs/cifar10",
        ImageDataset::Cifar100 => "uoft-cs/cifar100",
    }
}

/// Fetches both splits; `tried` are the directories where the data set was not.
pub(super) fn load(dataset: ImageDataset, tried: &[PathBuf]) -> Result<ImageData, DataError> {
    let repository = repository(dataset);
    crate::status!("{dataset} is in no local directory; fetching {repository} from the Hugging Face hub");
    let readers = HFClientSync::new()
        .map_err(|error| error.to_string())
        .and_then(|client| from_hub(&client, repository.to_owned()).map_err(|error| error.to_string()))
        .map_err(|problem| DataError::Hub { dataset, tried: tried.to_vec(), problem, cure: dataset.cure() })?;
    // The client does not tell the files' names, but only the test split has as many rows as a test split.
    let test_rows = dataset.count(Part::Test) as i64;
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (k, reader) in readers.iter().enumerate() {
        let split = if reader.metadata().file_metadata().num_rows() == test_rows { &mut test } else { &mut train };
        let path = Path::new("hub").join(repository).join(format!("file {k}"));
        split.push((path, reader));
    }
    let records = |(path, reader): (PathBuf, &SerializedFileReader<File>)| {
        let records = parquet::records_of(reader, &path, &dataset.cure())?;
        Ok((path, records))
    };
    Ok(ImageData {
        train: parquet::from_records(dataset, train.into_iter().map(records), Part::Train)?,
        test: parquet::from_records(dataset, test.into_iter().map(records), Part::Test)?,
        origin: format!("hub ({repository})"),
        is_sample: false,
    })
}
