//! A server on this machine that answers as the Hugging Face hub does where a data set is downloaded: the listing of a revision,
//! and files behind redirects to another path.

use std::collections::{BTreeMap, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Default)]
struct State {
    /// By `owner/name/path in the repository`.
    files: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
    requests: Mutex<Vec<String>>,
    is_stopped: AtomicBool,
}

/// A running server; it stops when it is dropped.
pub struct FakeHub {
    address: SocketAddr,
    state: Arc<State>,
    server: Option<JoinHandle<()>>,
}

impl FakeHub {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::new(State::default()));
        let shared = state.clone();
        let server = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.is_stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (state, stream) = (shared.clone(), stream.unwrap());
                // A client that has gone is no error of the server.
                std::thread::spawn(move || answer(&state, address, stream).ok());
            }
        });
        Self { address, state, server: Some(server) }
    }

    /// Adds or replaces a file of the branch `refs/convert/parquet`.
    pub fn put(&self, repository: &str, path: &str, bytes: Vec<u8>) {
        self.state.files.lock().unwrap().insert(format!("{repository}/{path}"), Arc::new(bytes));
    }

    /// The requests so far, METHOD PATH each.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Environment variables for a process that shall use this server, its cache below `home`, and no data of this machine.
    pub fn environment(&self, command: &mut Command, home: &Path) {
        without_data(command, home);
        command.env("HF_ENDPOINT", format!("http://{}", self.address));
    }
}

/// Environment variables for a process that shall find no data set but in a cache below `home`, and no hub.
pub fn without_data(command: &mut Command, home: &Path) {
    for name in ["DS_DATA_DIR", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "XDG_CACHE_HOME"]
    {
        command.env_remove(name);
    }
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", home).env("HF_ENDPOINT", "http://127.0.0.1:9");
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.state.is_stopped.store(true, Ordering::SeqCst);
        // The server waits for a connection.
        TcpStream::connect(self.address).ok();
        self.server.take().unwrap().join().unwrap();
    }
}

fn answer(state: &State, address: SocketAddr, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    state.requests.lock().unwrap().push(format!("{method} {target}"));
    let path = target.split('?').next().unwrap_or_default().replace("%2F", "/");
    let files = state.files.lock().unwrap().clone();
    let (status, headers, body) = response(&files, address, &path);
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len())?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.flush()
}

type Files = BTreeMap<String, Arc<Vec<u8>>>;

/// (status, headers, body)
fn response(files: &Files, address: SocketAddr, path: &str) -> (&'static str, String, Arc<Vec<u8>>) {
    const REVISION: &str = "refs/convert/parquet";
    let none = || ("404 Not Found", String::new(), Arc::new(b"{\"error\":\"not found\"}".to_vec()));
    if let Some(repository) = path.strip_prefix("/api/datasets/").and_then(|path| path.strip_suffix(REVISION)) {
        let repository = repository.trim_end_matches("/revision/");
        let names = files.keys().filter_map(|file| file.strip_prefix(&format!("{repository}/")));
        let siblings: Vec<String> = names.map(|name| format!("{{\"rfilename\":\"{name}\"}}")).collect();
        if siblings.is_empty() {
            return none();
        }
        let siblings = siblings.join(",");
        let body = format!("{{\"_id\":\"1\",\"id\":\"{repository}\",\"sha\":\"{COMMIT}\",\"siblings\":[{siblings}]}}");
        return ("200 OK", "Content-Type: application/json\r\n".to_owned(), Arc::new(body.into_bytes()));
    }
    if let Some((repository, file)) = path.strip_prefix("/datasets/").and_then(|path| path.split_once("/resolve/")) {
        let name = file.strip_prefix(REVISION).or_else(|| file.strip_prefix(COMMIT)).unwrap_or_default();
        let Some(body) = files.get(&format!("{repository}{name}")) else { return none() };
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let etag = format!("{:016x}", hasher.finish());
        let headers = format!(
            "Location: http://{address}/cdn/{repository}{name}\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-ETag: \"{etag}\"\r\n\
             X-Linked-Size: {}\r\nETag: \"{etag}\"\r\n",
            body.len()
        );
        return ("302 Found", headers, Arc::new(Vec::new()));
    }
    match path.strip_prefix("/cdn/").and_then(|file| files.get(file)) {
        Some(body) => ("200 OK", "Content-Type: application/octet-stream\r\n".to_owned(), body.clone()),
        None => none(),
    }
}
