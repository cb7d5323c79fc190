//! Networks that let only one transport through: relays of TCP or UDP on ports of their own.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

/// Relays TCP connections to `target` for as long as the test runs; nothing listens on UDP of its port.
///
/// # Errors
/// When there is no free port.
pub fn tcp(target: SocketAddr) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(other) = TcpStream::connect(target) else {
                continue;
            };
            let (Ok(back), Ok(forth)) = (stream.try_clone(), other.try_clone()) else {
                continue;
            };
            thread::spawn(move || copy(stream, other));
            thread::spawn(move || copy(forth, back));
        }
    });
    Ok(address)
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// Relays UDP of `address` to `target`, for one peer at a time, for as long as the test runs.
///
/// # Errors
/// When the port is taken.
pub fn udp(address: SocketAddr, target: SocketAddr) -> std::io::Result<()> {
    let near = UdpSocket::bind(address)?;
    thread::spawn(move || {
        let mut peers: Vec<(SocketAddr, UdpSocket)> = Vec::new();
        let mut bytes = [0; 65_536];
        while let Ok((length, from)) = near.recv_from(&mut bytes) {
            if !peers.iter().any(|(peer, _)| *peer == from) {
                match answering(&near, from, target) {
                    Ok(far) => peers.push((from, far)),
                    Err(_) => continue,
                }
            }
            if let Some((_, far)) = peers.iter().find(|(peer, _)| *peer == from) {
                let _ = far.send(&bytes[..length]);
            }
        }
    });
    Ok(())
}

fn answering(near: &UdpSocket, peer: SocketAddr, target: SocketAddr) -> std::io::Result<UdpSocket> {
    let far = UdpSocket::bind("127.0.0.1:0")?;
    far.connect(target)?;
    far.set_read_timeout(Some(Duration::from_secs(120)))?;
    let (back, answers) = (near.try_clone()?, far.try_clone()?);
    thread::spawn(move || {
        let mut bytes = [0; 65_536];
        while let Ok(length) = answers.recv(&mut bytes) {
            let _ = back.send_to(&bytes[..length], peer);
        }
    });
    Ok(far)
}
