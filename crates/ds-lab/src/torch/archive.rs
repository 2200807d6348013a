//! Files of `torch.save` since PyTorch 1.6: a ZIP archive with a pickle and the bytes of each tensor's storage.
//!
//! No pickle is executed ([`crate::pickle`]). What is read is bounded by the size of the file.

use crate::pickle::{Pickle, Value, parse as parse_pickle, text};
use candle_core::{DType, Device, Tensor};
use std::collections::HashSet;
use std::io::{Cursor, Read};
use zip::ZipArchive;

/// The functions and classes of state dicts, of optimisers and schedulers.
const KNOWN: [&str; 22] = [
    "collections.OrderedDict",
    "collections.Counter",
    "collections.defaultdict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.FloatStorage",
    "torch.DoubleStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.LongStorage",
    "torch.IntStorage",
    "torch.ShortStorage",
    "torch.CharStorage",
    "torch.ByteStorage",
    "torch.BoolStorage",
    "torch.Size",
    "torch.device",
    "builtins.dict",
    // Accuracies that NumPy computed.
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
];

/// What such a file holds.
pub(super) struct File {
    /// The tensors of the network, in their order.
    pub state: Vec<(String, Tensor)>,
    /// The settings of the training and where it stood, from a checkpoint of the original's program.
    pub checkpoint: Option<Checkpoint>,
}

/// What a checkpoint has beside the network.
pub(super) struct Checkpoint {
    /// The settings of the program.
    pub params: Vec<(String, Setting)>,
    /// Epochs done.
    pub epochs: Option<u64>,
    /// Steps done.
    pub steps: Option<u64>,
    /// The optimiser of the weights, or of all parameters.
    pub main: Option<Optimizer>,
    /// The optimiser of the splines.
    pub aux: Option<Optimizer>,
    /// (milestones, γ) of the schedule.
    pub schedule: Option<(Vec<u64>, f64)>,
}

/// A setting of the program.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Setting {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
}

/// An optimiser's settings and moving averages.
pub(super) struct Optimizer {
    /// The learning rate before the schedule.
    pub lr: Option<f64>,
    /// The momentum of SGD; `None` for Adam.
    pub momentum: Option<f64>,
    /// The names and values of each parameter's moving averages, in the order of the parameters.
    pub state: Vec<Vec<(String, Tensor)>>,
}

/// Reads a file.
///
/// # Errors
/// If it is cut, damaged, of another kind, or refers to functions or classes that it does not need, as a text.
pub(super) fn parse(bytes: &[u8]) -> Result<File, String> {
    if !bytes.starts_with(b"PK") {
        return Err(other_kind(bytes));
    }
    let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| format!("its ZIP archive: {error}"))?;
    let names = zip.file_names().filter_map(|name| name.ok().map(|name| name.into_owned()));
    let root = names.filter_map(|name| name.strip_suffix("data.pkl").map(str::to_owned)).min_by_key(String::len);
    let root = root.ok_or("its ZIP archive has no data.pkl, as files of torch.save have")?;
    if let Ok(order) = member(&mut zip, &format!("{root}byteorder"), 16)
        && order != b"little"
    {
        return Err(format!("its numbers are in the byte order `{}`; little is read", text(&order)));
    }
    let code = member(&mut zip, &format!("{root}data.pkl"), bytes.len())?;
    let pickle = parse_pickle(&code, &KNOWN)?;
    Reader { zip, root, budget: bytes.len() }.file(&pickle)
}

/// What else a file without the mark of a ZIP archive may be.
fn other_kind(bytes: &[u8]) -> String {
    let again = "save it again with a newer PyTorch: torch.save(torch.load(FILE, map_location=\"cpu\"), NEW)";
    match bytes {
        [] => "it is empty".to_owned(),
        // PROTO 2 and then LONG1 with torch.save's magic number.
        [0x80, 2, 0x8a, 10, ..] => format!("it is of PyTorch before 1.6; {again}"),
        [0x80, 2..=5, ..] => "it is a pickle that torch.save did not write".to_owned(),
        _ => "it is neither a file of torch.save (a ZIP archive) nor a safetensors file".to_owned(),
    }
}

/// The bytes of a member of an archive, which has no more than `limit`.
fn member(zip: &mut ZipArchive<Cursor<&[u8]>>, name: &str, limit: usize) -> Result<Vec<u8>, String> {
    let file = zip.by_name(name).map_err(|error| format!("its member {}: {error}", text(name.as_bytes())))?;
    let mut bytes = Vec::new();
    let read = file.take(limit as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("its member {}: {error}", text(name.as_bytes())))?;
    if bytes.len() > limit {
        return Err(format!("its member {} has more than {limit} bytes", text(name.as_bytes())));
    }
    Ok(bytes)
}

struct Reader<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder in the archive.
    root: String,
    /// Bytes of storages that may still be read.
    budget: usize,
}

impl Reader<'_> {
    fn file(mut self, pickle: &Pickle<'_>) -> Result<File, String> {
        let root = pickle.root();
        let Some(entries) = pickle.entries(root) else { return Err("its pickle is no dictionary".to_owned()) };
        let Some(model) = pickle.entry(root, "model_state") else {
            let is_tensor = |&(_, value): &(usize, usize)| matches!(pickle.get(value), Value::Object(_));
            if entries.is_empty() || !entries.iter().all(is_tensor) {
                let names = entries.iter().filter_map(|(key, _)| name_of(pickle, *key).ok()).take(8);
                return Err(format!(
                    "it is neither a state_dict nor a checkpoint with `model_state`; its entries: {}",
                    names.collect::<Vec<_>>().join(", ")
                ));
            }
            return Ok(File { state: self.tensors(pickle, root, "")?, checkpoint: None });
        };
        let state = self.tensors(pickle, model, "model_state")?;
        let number = |key: &str| match pickle.entry(root, key) {
            Some(Value::Integer(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let params = pickle.entry(root, "params").map(|params| settings(pickle, params)).unwrap_or_default();
        let checkpoint = Checkpoint {
            params,
            epochs: number("num_epochs_finished"),
            steps: number("global_step"),
            main: self.optimizer(pickle, "main_optimizer_state")?,
            aux: self.optimizer(pickle, "aux_optimizer_state")?,
            schedule: schedule(pickle),
        };
        Ok(File { state, checkpoint: Some(checkpoint) })
    }

    /// The tensors of a dictionary, by name.
    fn tensors(&mut self, pickle: &Pickle<'_>, of: &Value<'_>, place: &str) -> Result<Vec<(String, Tensor)>, String> {
        let entries = pickle.entries(of).ok_or_else(|| format!("its `{place}` is no dictionary"))?;
        let (mut names, mut all) = (HashSet::new(), Vec::new());
        for &(key, value) in entries {
            let name = name_of(pickle, key).map_err(|problem| format!("its `{place}` {problem}"))?;
            if !names.insert(name.clone()) {
                return Err(format!("its entry `{name}` is there twice"));
            }
            let tensor = self.tensor(pickle, pickle.get(value));
            all.push((name.clone(), tensor.map_err(|problem| format!("its entry `{name}` {problem}"))?));
        }
        Ok(all)
    }

    /// A tensor, from what would rebuild it.
    fn tensor(&mut self, pickle: &Pickle<'_>, value: &Value<'_>) -> Result<Tensor, String> {
        let Value::Object(object) = value else { return Err("is no tensor".to_owned()) };
        let arguments = pickle.arguments(object);
        match (pickle.class(object).as_str(), &arguments[..]) {
            ("torch._utils._rebuild_parameter", [Value::Object(inner), ..]) => {
                // A parameter of a parameter would be no file of PyTorch.
                if pickle.class(inner) == "torch._utils._rebuild_parameter" {
                    return Err("is no tensor".to_owned());
                }
                self.tensor(pickle, arguments[0])
            }
            ("torch._utils._rebuild_tensor_v2", [storage, Value::Integer(offset), shape, strides, ..]) => {
                let sizes = |value: &Value<'_>| {
                    let size = |item: &&Value<'_>| match item {
                        Value::Integer(size) => usize::try_from(*size).ok(),
                        _ => None,
                    };
                    pickle.items(value).and_then(|items| items.iter().map(size).collect::<Option<Vec<usize>>>())
                };
                let (Some(shape), Some(strides)) = (sizes(shape), sizes(strides)) else {
                    return Err("has a shape that cannot be read".to_owned());
                };
                let offset = usize::try_from(*offset).map_err(|_| "has an offset below 0".to_owned())?;
                self.stored(pickle, storage, offset, &shape, &strides)
            }
            _ => Err("is no tensor".to_owned()),
        }
    }

    /// A tensor that is all of a storage or a contiguous part of it.
    fn stored(
        &mut self,
        pickle: &Pickle<'_>,
        storage: &Value<'_>,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Tensor, String> {
        let Value::Persistent(key) = storage else { return Err("has no storage".to_owned()) };
        let parts = pickle.items(pickle.get(*key)).unwrap_or_default();
        let [Value::Bytes(b"storage"), Value::Name { name, .. }, Value::Bytes(key), _, Value::Integer(count)] =
            parts[..]
        else {
            return Err("has a storage of an unknown kind".to_owned());
        };
        let (dtype, width) = element(name).ok_or_else(|| format!("is of {}, which is not read", text(name)))?;
        let mut contiguous = 1usize;
        for (&size, &stride) in shape.iter().zip(strides).rev() {
            if size != 1 && stride != contiguous {
                return Err(format!("has strides {strides:?}; save a contiguous tensor"));
            }
            contiguous = contiguous.checked_mul(size).ok_or("is too large")?;
        }
        let in_storage = usize::try_from(*count).unwrap_or(0);
        let end = offset.checked_add(contiguous).filter(|end| *end <= in_storage && shape.len() == strides.len());
        let Some(end) = end else {
            return Err(format!("has shape {shape:?}, more than its storage of {in_storage} numbers holds"));
        };
        let limit = in_storage.checked_mul(width).ok_or("is too large")?;
        // Each storage is in the file once.
        self.budget = self.budget.checked_sub(limit).ok_or("needs, with the others, more bytes than the file has")?;
        let key = std::str::from_utf8(key).map_err(|_| "has a storage whose name is no text".to_owned())?;
        let stored = member(&mut self.zip, &format!("{}data/{key}", self.root), limit)?;
        let part = stored
            .get(offset * width..end * width)
            .ok_or_else(|| format!("needs {} bytes of a storage that has {}", end * width, stored.len()))?;
        Tensor::from_raw_buffer(part, dtype, shape, &Device::Cpu).map_err(|error| format!("cannot be read: {error}"))
    }

    /// The state of an optimiser, if the file has one.
    fn optimizer(&mut self, pickle: &Pickle<'_>, name: &str) -> Result<Option<Optimizer>, String> {
        let Some(of) = pickle.entry(pickle.root(), name).filter(|of| **of != Value::None) else { return Ok(None) };
        let group = pickle.entry(of, "param_groups").and_then(|groups| pickle.items(groups));
        let Some([group]) = group.as_deref() else { return Ok(None) };
        let number = |key: &str| pickle.entry(group, key).and_then(number);
        let lr = number("initial_lr").or_else(|| number("lr"));
        let momentum = if pickle.entry(group, "betas").is_some() { None } else { number("momentum") };
        let count = pickle.entry(group, "params").and_then(|params| pickle.items(params)).map_or(0, |all| all.len());
        let entries = pickle.entry(of, "state").and_then(|state| pickle.entries(state)).unwrap_or_default();
        let mut state: Vec<Vec<(String, Tensor)>> = vec![Vec::new(); count];
        for &(key, value) in entries {
            let Value::Integer(index) = *pickle.get(key) else { continue };
            let Some(slot) = usize::try_from(index).ok().and_then(|index| state.get_mut(index)) else { continue };
            for &(key, value) in pickle.entries(pickle.get(value)).unwrap_or_default() {
                let (Ok(average), value) = (name_of(pickle, key), pickle.get(value)) else { continue };
                if matches!(value, Value::Object(_)) {
                    let place = format!("its entry `{name}`[state][{index}][{average}]");
                    let tensor = self.tensor(pickle, value).map_err(|problem| format!("{place} {problem}"))?;
                    slot.push((average, tensor));
                }
            }
        }
        Ok(Some(Optimizer { lr, momentum, state }))
    }
}

/// The type of a storage's numbers, and their bytes. Types that no network has are read as the nearest that Candle has.
fn element(storage: &[u8]) -> Option<(DType, usize)> {
    Some(match storage {
        b"FloatStorage" => (DType::F32, 4),
        b"DoubleStorage" => (DType::F64, 8),
        b"HalfStorage" => (DType::F16, 2),
        b"BFloat16Storage" => (DType::BF16, 2),
        b"LongStorage" => (DType::I64, 8),
        b"IntStorage" => (DType::I32, 4),
        b"ShortStorage" => (DType::I16, 2),
        b"ByteStorage" => (DType::U8, 1),
        _ => return None,
    })
}

/// The text of a key.
fn name_of(pickle: &Pickle<'_>, key: usize) -> Result<String, String> {
    match pickle.get(key) {
        Value::Bytes(name) => String::from_utf8(name.to_vec()).map_err(|_| "has a name that is no text".to_owned()),
        _ => Err("has a key that is no text".to_owned()),
    }
}

fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        Value::Integer(number) => Some(*number as f64),
        _ => None,
    }
}

/// The settings that are numbers, texts or truth values.
fn settings(pickle: &Pickle<'_>, params: &Value<'_>) -> Vec<(String, Setting)> {
    let setting = |&(key, value): &(usize, usize)| {
        let value = match pickle.get(value) {
            Value::Boolean(value) => Setting::Boolean(*value),
            Value::Integer(value) => Setting::Integer(*value),
            Value::Float(value) => Setting::Float(*value),
            Value::Bytes(value) => Setting::Text(String::from_utf8(value.to_vec()).ok()?),
            _ => return None,
        };
        Some((name_of(pickle, key).ok()?, value))
    };
    pickle.entries(params).unwrap_or_default().iter().filter_map(setting).collect()
}

/// Milestones and γ of `MultiStepLR`.
fn schedule(pickle: &Pickle<'_>) -> Option<(Vec<u64>, f64)> {
    let scheduler = pickle.entry(pickle.root(), "main_scheduler_state")?;
    let Value::Object(milestones) = pickle.entry(scheduler, "milestones")? else { return None };
    // A Counter: each epoch, and how often it stands in the list.
    let counts = pickle.arguments(milestones);
    let entries = pickle.entries(counts.first()?)?;
    let mut epochs = Vec::new();
    for &(epoch, _) in entries {
        let Value::Integer(epoch) = pickle.get(epoch) else { return None };
        epochs.push(u64::try_from(*epoch).ok()?);
    }
    epochs.sort_unstable();
    epochs.dedup();
    Some((epochs, pickle.entry(scheduler, "gamma").and_then(number)?))
}
