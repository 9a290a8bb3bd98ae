//! Telling systemd that the member is ready: one datagram to the socket that `NOTIFY_SOCKET` names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says `READY=1` to the service manager that `socket` (the value of `NOTIFY_SOCKET`) leads to.
pub fn ready(socket: &OsStr) -> io::Result<()> {
    let bytes = socket.as_bytes();
    let address = match bytes.split_first() {
        // An abstract name: the system knows it by a leading zero byte, the variable by `@`.
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_arrives_at_paths_and_abstract_names() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        ready(path.as_os_str()).unwrap();

        let name = format!("kelson-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        ready(OsStr::new(&format!("@{name}"))).unwrap();

        for socket in [by_path, by_name] {
            let mut buffer = [0; 16];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
    }
}
