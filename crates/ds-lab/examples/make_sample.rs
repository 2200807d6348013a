//! Makes the shipped sample of CIFAR-10 from the whole data set in parquet form: the first images of each class, with
//! their bytes as they are.
//!
//! `cargo run --release -p ds-lab --example make_sample -- FROM TO`

use ds_lab::data::parquet::{Record, read_records, write_records};
use std::error::Error;
use std::path::Path;

/// The first images of each class, `total` in all, in their order.
fn first_of_each(records: Vec<Record>, total: usize) -> Vec<Record> {
    let mut taken = [0; 10];
    let limit = total.div_ceil(10);
    let wanted = records.into_iter().filter(|record| {
        let class = usize::from(record.labels[0]);
        taken[class] += 1;
        taken[class] <= limit
    });
    wanted.take(total).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else { return Err("usage: make_sample FROM TO".into()) };
    for (name, source, total) in
        [("train", "train-00000-of-00004.parquet", 2560), ("test", "test-00000-of-00001.parquet", 512)]
    {
        let records = read_records(&Path::new(from).join(source), "give the directory of the parquet files")?;
        let path = Path::new(to).join(format!("{name}-00000-of-00001.parquet"));
        write_records(&path, &first_of_each(records, total))?;
        println!("{}: {} bytes", path.display(), std::fs::metadata(&path)?.len());
    }
    Ok(())
}
