//! Whether a program has bound a socket file and does not listen yet: connecting cannot tell that from a stale file.
//!
//! Linux lists bound sockets in `/proc/net/unix`, also those that do not listen. The list belongs to the network
//! namespace, so it lacks programs in other containers.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether an open socket is bound to the file at `path`, an absolute path. `None` if the system does not tell.
pub(crate) fn is_bound(path: &Path) -> Option<bool> {
    let list = fs::read("/proc/net/unix").ok()?;
    let file = fs::symlink_metadata(path).ok()?;
    let is_this_file = |bound: &Path| {
        if bound.is_absolute() {
            return fs::symlink_metadata(bound)
                .is_ok_and(|bound| (bound.dev(), bound.ino()) == (file.dev(), file.ino()));
        }
        // Relative to the working directory of an unknown program. If in doubt, it is this file.
        bound.file_name() == path.file_name()
    };
    Some(bound_paths(&list).any(is_this_file))
}

/// The paths of sockets that are bound and not connected. Sockets that a listening socket accepted have its path, too,
/// and can live longer.
///
/// ```text
/// Num       RefCount Protocol Flags    Type St Inode Path
/// 00000000dd7f4d21: 00000002 00000000 00010000 0001 01 17361 /run/dbus/system_bus_socket
/// ```
fn bound_paths(list: &[u8]) -> impl Iterator<Item = &Path> {
    const UNCONNECTED: &[u8] = b"01";

    list.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.splitn(7, |&byte| byte == b' ');
        let state = fields.nth(5)?;
        // The inode number is padded with spaces on its left. One space follows, also if the path begins with one.
        let inode_and_path = fields.next()?.trim_ascii_start();
        let digits = inode_and_path.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let path = inode_and_path[digits..].strip_prefix(b" ")?;
        // Abstract names begin with an @ here.
        (state == UNCONNECTED && !path.is_empty() && !path.starts_with(b"@"))
            .then(|| Path::new(OsStr::from_bytes(path)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_bound_sockets_are_found() {
        let list = b"Num       RefCount Protocol Flags    Type St Inode Path
00000000f9ae10c2: 00000003 00000000 00000000 0001 03 17968205
0000000032f20b2d: 00000003 00000000 00000000 0001 03  1148
00000000dd7f4d21: 00000002 00000000 00010000 0001 01 17361 /run/listening
00000000dd7f4d22: 00000002 00000000 00000000 0001 01    36 /run/not yet
00000000dd7f4d23: 00000003 00000000 00000000 0001 03 17362 /run/accepted
00000000dd7f4d24: 00000002 00000000 00000000 0002 01 17363  begins with a space
00000000dd7f4d25: 00000002 00000000 00010000 0001 01 17364 @abstract
00000000dd7f4d26: 00000002 00000000 00000000 0001 01 17365 \xff
broken
";
        let paths: Vec<_> = bound_paths(list).map(|path| path.as_os_str().as_bytes()).collect();
        let expected: [&[u8]; 4] = [b"/run/listening", b"/run/not yet", b" begins with a space", b"\xff"];
        assert_eq!(paths, expected);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_is_bound_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        assert_eq!(is_bound(&path), Some(true));
        // By another name of the same file.
        let other_name = dir.path().join("link");
        fs::hard_link(&path, &other_name).unwrap();
        assert_eq!(is_bound(&other_name), Some(true));
        drop(socket);
        assert_eq!(is_bound(&path), Some(false));
    }
}
