//! The driver over real UDP on loopback.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod rig;

use std::time::Duration;

use bytes::Bytes;
use rig::{Node, Rig};
use stentor_proto::limits::{CONTROL_BACKLOG_BYTES, HANDSHAKE_DEADLINE};
use stentor_proto::wire::{ALPN, CloseCode};
use stentor_relay::quic::{ClosedBy, Outcome, SendControlError};

#[test]
fn control_and_datagrams_cross_both_ways() {
    let rig = Rig::new();
    let mut server = rig.server("127.0.0.1:0");
    let mut client = rig.client("127.0.0.1:0");
    let to_server = client.connect(&rig, server.address());
    client.control(to_server, b"hello");
    rig::until([&mut server, &mut client], |[server, client]| {
        server.connected.len() == 1 && client.connected.len() == 1 && server.text(0) == "hello"
    });
    let to_client = server.connected[0].0;
    assert_eq!(server.connected[0].1, ALPN);
    assert_eq!(client.connected[0].1, ALPN);
    assert_eq!(server.driver.peer(to_client), Some(client.address()));
    assert_eq!(server.driver.connections(), 1);
    assert_eq!(server.driver.handshaking(), 0);

    // A message longer than a packet, and longer than one flow-control window in sum.
    let long = vec![b'x'; 16_000];
    server.control(to_client, &long);
    for _ in 0..3 {
        rig::until([&mut server, &mut client], |[_, client]| client.text(0).len() >= long.len());
        client.received_control.clear();
        server.control(to_client, &long);
    }
    server.datagram(to_client, &[1; 1100]);
    client.datagram(to_server, b"speech");
    rig::until([&mut server, &mut client], |[server, client]| {
        !server.datagrams.is_empty() && !client.datagrams.is_empty()
    });
    assert_eq!(client.datagrams[0].1, [1; 1100].as_slice());
    assert_eq!(server.datagrams[0].1, b"speech".as_slice());
    for (_, _, received_ns) in server.datagrams.iter().chain(&client.datagrams) {
        let age = rig::realtime_ns().abs_diff(*received_ns);
        assert!(age < 5_000_000_000, "kernel time is {age} ns off");
    }
    assert!(server.driver.rtt(to_client).unwrap() < Duration::from_secs(1));
    assert_eq!(server.driver.conn_stats(to_client).unwrap().lost_packets, 0);
    assert_eq!(
        server.driver.send_datagram(rig::now(), to_client, Bytes::from(vec![0; 1_400])),
        Outcome::TooLarge
    );
}

#[test]
fn a_broadcast_loses_nothing() {
    const LISTENERS: usize = 200;
    const TICKS: usize = 50;
    let rig = Rig::new();
    let mut server = rig.server("127.0.0.1:0");
    let mut client = rig.client("127.0.0.1:0");
    for _ in 0..LISTENERS {
        client.connect(&rig, server.address());
    }
    rig::until([&mut server, &mut client], |[server, client]| {
        server.connected.len() == LISTENERS && client.connected.len() == LISTENERS
    });
    let listeners: Vec<_> = server.connected.iter().map(|(conn, ..)| *conn).collect();
    let mut missed = 0;
    for tick in 0..TICKS {
        let bytes = Bytes::from(vec![tick as u8; 136]);
        server.driver.send_to_all(rig::now(), &listeners, &bytes, &mut |_, _| missed += 1);
        server.turn();
        let due = (tick + 1) * LISTENERS;
        rig::until([&mut server, &mut client], |[_, client]| client.datagrams.len() == due);
    }
    assert_eq!(missed, 0);
    let mut each = vec![0; LISTENERS];
    for (conn, bytes, _) in &client.datagrams {
        assert_eq!(bytes.len(), 136);
        each[conn.0 as usize] += 1;
    }
    assert!(each.iter().all(|&count| count == TICKS));
    let stats = server.driver.stats();
    assert_eq!((stats.send_would_block, stats.send_failed, stats.datagram_full), (0, 0, 0));
    assert!(stats.send_calls < stats.packets_out / 8, "{stats:?}");
}

#[test]
fn a_migrating_client_is_routed_to_its_shard() {
    let rig = Rig::new();
    let [mut one, mut two] = rig.shards("127.0.0.1:0");
    let mut clients = rig.client("127.0.0.1:0");
    let conn = clients.connect(&rig, one.address());
    rig::until([&mut one, &mut two, &mut clients], |[one, two, clients]| {
        clients.connected.len() == 1 && one.connected.len() + two.connected.len() == 1
    });
    let first_is_home = one.driver.connections() == 1;
    let other = |one: &Node, two: &Node| match first_is_home {
        true => two.driver.stats().foreign,
        false => one.driver.stats().foreign,
    };
    // The kernel chooses the shard by the client's port, so some port lands on the other one.
    let mut moves = 0;
    while other(&one, &two) == 0 {
        moves += 1;
        assert!(moves < 64, "no port led to the other shard");
        clients.driver.rebind(rig::socket("127.0.0.1:0")).unwrap();
        let before = one.datagrams.len() + two.datagrams.len();
        clients.datagram(conn, b"moved");
        rig::until([&mut one, &mut two, &mut clients], |[one, two, _]| {
            one.datagrams.len() + two.datagrams.len() > before
        });
    }
    let home = match first_is_home {
        true => &mut one,
        false => &mut two,
    };
    let here = home.connected[0].0;
    assert!(home.driver.stats().injected > 0);
    assert_eq!(home.driver.peer(here), Some(clients.address()));
    home.datagram(here, b"found");
    rig::until([&mut one, &mut two, &mut clients], |[_, _, clients]| {
        clients.datagrams.iter().any(|(_, bytes, _)| bytes == b"found".as_slice())
    });
    assert!(clients.closed.is_empty() && one.closed.is_empty() && two.closed.is_empty());
}

#[test]
fn a_peer_that_stops_acknowledging_blocks_and_unblocks() {
    let rig = Rig::new();
    let mut server = rig.server("127.0.0.1:0");
    let mut client = rig.client("127.0.0.1:0");
    client.connect(&rig, server.address());
    rig::until([&mut server, &mut client], |[server, _]| server.connected.len() == 1);
    let conn = server.connected[0].0;
    let mut outcomes = Vec::new();
    // The client sleeps: 32 kB fill the window, one more datagram waits, the next is not taken.
    for _ in 0..80 {
        outcomes.push(server.datagram(conn, &[7; 1_000]));
        std::thread::sleep(Duration::from_millis(1));
    }
    let waiting = outcomes.iter().position(|&outcome| outcome == Outcome::Waiting).unwrap();
    assert!(outcomes[..waiting].iter().all(|&outcome| outcome == Outcome::Sent));
    assert!(waiting > 20, "blocked after {waiting}");
    assert_eq!(outcomes[waiting + 1], Outcome::Full);
    rig::until([&mut server, &mut client], |[server, _]| server.unblocked.contains(&conn));
    assert_eq!(server.datagram(conn, b"again"), Outcome::Sent);
    assert!(server.driver.stats().datagram_waited >= 1);
}

#[test]
fn closes_carry_their_code_and_reason_both_ways() {
    let rig = Rig::new();
    let mut server = rig.server("127.0.0.1:0");
    let mut client = rig.client("127.0.0.1:0");
    for _ in 0..2 {
        client.connect(&rig, server.address());
    }
    rig::until([&mut server, &mut client], |[server, client]| {
        server.connected.len() == 2 && client.connected.len() == 2
    });
    let here = server.connected[0].0;
    server.driver.close(rig::now(), here, CloseCode::RoomEnded as u32, "the room ended");
    server.driver.close(rig::now(), here, CloseCode::Internal as u32, "twice");
    let there = client.connected[1].0;
    client.driver.close(rig::now(), there, CloseCode::Done as u32, "goodbye");
    rig::until([&mut server, &mut client], |[server, client]| {
        server.closed.len() == 2 && client.closed.len() == 2
    });
    for (closed, by, code, text) in [
        (&server.closed, ClosedBy::Local, 1, "the room ended"),
        (&client.closed, ClosedBy::Peer, 1, "the room ended"),
        (&server.closed, ClosedBy::Peer, 0, "goodbye"),
        (&client.closed, ClosedBy::Local, 0, "goodbye"),
    ] {
        assert!(
            closed.iter().any(|(_, reason)| reason.by == by
                && reason.code == Some(code)
                && reason.text == text),
            "{closed:?}"
        );
    }
    assert_eq!(server.datagram(here, b"late"), Outcome::Closed);
    let late = server.driver.send_control(here, Bytes::from_static(b"late"));
    assert_eq!(late, Err(SendControlError::Closed));
    rig::until([&mut server, &mut client], |[server, client]| {
        server.driver.is_idle() && client.driver.is_idle()
    });
}

#[test]
fn both_families_on_one_socket() {
    let rig = Rig::new();
    let mut server = rig.server("[::]:0");
    let mut v4 = rig.client("127.0.0.1:0");
    let mut v6 = rig.client("[::1]:0");
    let mut mapped = rig.client("[::]:0");
    let port = server.address().port();
    v4.connect(&rig, ([127, 0, 0, 1], port).into());
    v6.connect(&rig, ([0, 0, 0, 0, 0, 0, 0, 1], port).into());
    mapped.connect(&rig, ([127, 0, 0, 2], port).into());
    rig::until([&mut server, &mut v4, &mut v6, &mut mapped], |[server, ..]| {
        server.connected.len() == 3
    });
    let peers: Vec<_> = server.connected.iter().map(|(conn, ..)| *conn).collect();
    for &conn in &peers {
        assert_eq!(server.datagram(conn, b"tick"), Outcome::Sent);
    }
    rig::until([&mut server, &mut v4, &mut v6, &mut mapped], |[_, v4, v6, mapped]| {
        [v4, v6, mapped].iter().all(|client| client.datagrams.len() == 1)
    });
    let families: Vec<_> =
        peers.iter().map(|&conn| server.driver.peer(conn).unwrap().is_ipv4()).collect();
    assert_eq!(families.iter().filter(|&&v4| v4).count(), 2);
}

#[test]
fn a_peer_without_room_for_a_datagram_is_refused_by_name() {
    let rig = Rig::new();
    let mut server = rig.server("127.0.0.1:0");
    let mut client = rig.client("127.0.0.1:0");
    client.connect_with(rig.small_client(), server.address());
    rig::until([&mut server, &mut client], |[_, client]| !client.closed.is_empty());
    let (_, reason) = &client.closed[0];
    assert_eq!(reason.code, Some(CloseCode::DatagramsTooSmall as u64));
    assert_eq!(reason.by, ClosedBy::Peer);
    assert!(reason.text.contains("1150"), "{reason}");
    assert!(server.connected.is_empty() && server.closed.is_empty());
    assert_eq!(server.driver.stats().datagrams_too_small, 1);
    rig::until([&mut server, &mut client], |[server, _]| server.driver.is_idle());
}

#[test]
fn garbage_is_survived() {
    let rig = Rig::new();
    let mut server = rig.server("127.0.0.1:0");
    let mut client = rig.client("127.0.0.1:0");
    client.connect(&rig, server.address());
    rig::until([&mut server, &mut client], |[server, _]| server.connected.len() == 1);
    let noise = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..5_000_usize {
        let bytes: Vec<u8> = (0..round % 1_500)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        noise.send_to(&bytes, server.address()).unwrap();
        if round % 50 == 0 {
            server.turn();
        }
    }
    noise.send_to(&[0; 3_000], server.address()).unwrap();
    let conn = server.connected[0].0;
    server.turn();
    assert_eq!(server.datagram(conn, b"still here"), Outcome::Sent);
    rig::until([&mut server, &mut client], |[_, client]| !client.datagrams.is_empty());
    assert_eq!(server.driver.connections(), 1);
    assert_eq!(server.driver.stats().oversized, 1);
}

#[test]
fn a_slow_reader_of_control_is_named() {
    let rig = Rig::new();
    let mut server = rig.server("127.0.0.1:0");
    let mut client = rig.client("127.0.0.1:0");
    let conn = client.connect(&rig, server.address());
    client.control(conn, b"hello");
    rig::until([&mut server, &mut client], |[server, _]| server.text(0) == "hello");
    let conn = server.connected[0].0;
    let chunk = Bytes::from(vec![0; 8_192]);
    let mut taken = 0;
    let error = loop {
        match server.driver.send_control(conn, chunk.clone()) {
            Ok(()) => taken += chunk.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(error, SendControlError::TooSlow);
    assert!((CONTROL_BACKLOG_BYTES..=3 * CONTROL_BACKLOG_BYTES).contains(&taken));
    rig::until([&mut server, &mut client], |[_, client]| client.bytes_of_control() == taken);
}

#[test]
fn a_draining_server_takes_nobody_new() {
    let rig = Rig::new();
    let mut server = rig.server("127.0.0.1:0");
    let mut client = rig.client("127.0.0.1:0");
    client.connect(&rig, server.address());
    rig::until([&mut server, &mut client], |[server, _]| server.connected.len() == 1);
    server.driver.refuse_new(true);
    client.connect(&rig, server.address());
    rig::until([&mut server, &mut client], |[server, _]| {
        server.driver.stats().incoming_refused > 0
    });
    assert_eq!(server.driver.connections(), 1);
    server.driver.refuse_new(false);
    // The client asks again by itself.
    rig::until([&mut server, &mut client], |[server, _]| server.connected.len() == 2);
}

#[test]
fn under_attack_addresses_are_proven_first() {
    let rig = Rig::new();
    let mut server = rig.server_with("127.0.0.1:0", |settings| settings.gate.retry_above = 0);
    let mut client = rig.client("127.0.0.1:0");
    client.connect(&rig, server.address());
    rig::until([&mut server, &mut client], |[server, client]| {
        server.connected.len() == 1 && client.connected.len() == 1
    });
    assert_eq!(server.driver.stats().incoming_retried, 1);
}

#[test]
fn a_handshake_that_does_not_end_is_given_up() {
    let rig = Rig::new();
    let mut server = rig.server("127.0.0.1:0");
    let mut client = rig.client("127.0.0.1:0");
    client.connect(&rig, server.address());
    client.driver.flush(rig::now());
    // The client is silent from here on: the server's answer is never read.
    rig::until([&mut server], |[server]| server.driver.handshaking() == 1);
    let now = rig::now();
    let due = server.driver.next_timeout().unwrap();
    assert!(due <= now + HANDSHAKE_DEADLINE);
    server.driver.handle_timeouts(now + HANDSHAKE_DEADLINE / 2);
    assert_eq!(server.driver.handshaking(), 1);
    server.driver.handle_timeouts(now + HANDSHAKE_DEADLINE);
    assert_eq!(server.driver.handshaking(), 0);
    assert_eq!(server.driver.stats().handshakes_slow, 1);
    assert!(server.driver.poll_event().is_none(), "nobody knew the connection");
}

#[test]
fn a_connection_that_fails_says_why() {
    let rig = Rig::new();
    let mut server = rig.server("127.0.0.1:0");
    let mut client = rig.client("127.0.0.1:0");
    let wrong_name = client
        .driver
        .connect(rig::now(), rig.client_config(), server.address(), "elsewhere.example")
        .unwrap();
    rig::until([&mut server, &mut client], |[_, client]| client.closed.len() == 1);
    assert_eq!(client.closed[0].0, wrong_name);
    assert_eq!(client.closed[0].1.by, ClosedBy::Transport);
    assert!(client.closed[0].1.text.contains("certificate"), "{}", client.closed[0].1);
    let port_zero = ([127, 0, 0, 1], 0).into();
    assert!(
        client.driver.connect(rig::now(), rig.client_config(), port_zero, "localhost").is_err()
    );
    rig::until([&mut server, &mut client], |[server, _]| server.driver.is_idle());
    assert_eq!(server.driver.stats().handshakes_failed, 1);
}

#[test]
fn a_host_with_several_addresses_answers_from_the_one_it_was_asked_on() {
    let rig = Rig::new();
    let mut server = rig.server("0.0.0.0:0");
    let mut client = rig.client("127.0.0.1:0");
    let port = server.address().port();
    // The routing table would answer from 127.0.0.1 in both cases; a client takes packets from the
    // address that it connected to alone.
    for address in [[127, 0, 0, 1], [127, 0, 0, 5]] {
        client.connect(&rig, (address, port).into());
    }
    rig::until([&mut server, &mut client], |[server, client]| {
        server.connected.len() == 2 && client.connected.len() == 2
    });
    let conns: Vec<_> = server.connected.iter().map(|(conn, ..)| *conn).collect();
    for round in 1..=3 {
        for &conn in &conns {
            assert_eq!(server.datagram(conn, b"tick"), Outcome::Sent);
        }
        rig::until([&mut server, &mut client], |[_, client]| client.datagrams.len() == 2 * round);
    }
}
