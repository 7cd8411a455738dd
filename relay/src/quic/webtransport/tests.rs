use super::*;

/// What Chromium 156 sends: its control stream, its QPACK encoder's, the request, the header of a
/// bidirectional stream, and a close with code 5 and the reason "bye".
const SETTINGS: &str = "00042901800100000680004000074064330180ffd27701ab60374201c000000d95de7236c0000000\
                        a0a07ab2c000000857e3794603d555a8";
const ENCODER: &str = "0220";
const REQUEST: &str = "0140580000d7cf508a089d5c0b8170dc69a7df518863b8584150831eaf2f00b95d8749c87a3f89f0\
                       58d360ea4567b13f2f0e4148b782c69b07522b3d895a74a6b65692c1ca900b01315f4b8f9d29aee3\
                       0c50720e89ce84dc69a7de0011c68c85925fab1ff908f064a3a29bcea019";
const HEADER: &str = "404100";
const CLOSE: &str = "000a68430700000005627965";

const CONTROL: u64 = 2;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn opened() -> WebTransport {
    let mut machine = WebTransport::new();
    assert_eq!(machine.handle_uni(CONTROL, &hex(SETTINGS)), Ok(Step::Nothing));
    let Ok(Step::Answer { accepted: true, .. }) = machine.handle_connect(&hex(REQUEST)) else {
        panic!("a browser is let in");
    };
    machine
}

/// A request for `url`, as web-transport-proto encodes it.
fn request(url: &str) -> Vec<u8> {
    let mut request = ConnectRequest::decode(&mut &hex(REQUEST)[..]).unwrap();
    request.url = request.url.join(url).unwrap();
    let mut out = Vec::new();
    request.encode(&mut out).unwrap();
    out
}

fn frame(kind: Frame, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    kind.encode(&mut out);
    VarInt::from_u32(u32::try_from(payload.len()).unwrap()).encode(&mut out);
    out.extend_from_slice(payload);
    out
}

#[test]
fn a_browser_opens_and_ends_a_session() {
    let mut machine = opened();
    assert_eq!(machine.handle_uni(10, &hex(ENCODER)), Ok(Step::Nothing));
    let mut control = hex(HEADER);
    control.extend_from_slice(b"hello");
    assert_eq!(machine.handle_control(control.into()), Ok(Some(Bytes::from_static(b"hello"))));
    let more = Bytes::from_static(b"more");
    assert_eq!(machine.handle_control(more.clone()), Ok(Some(more)));
    let ended = Step::Ended { code: 5, reason: "bye".into() };
    assert_eq!(machine.handle_connect(&hex(CLOSE)), Ok(ended));
}

#[test]
fn it_does_not_matter_where_bytes_are_cut() {
    let mut machine = WebTransport::new();
    for byte in hex(REQUEST) {
        assert_eq!(machine.handle_connect(&[byte]), Ok(Step::Nothing));
    }
    let settings = hex(SETTINGS);
    let steps: Vec<Step> =
        settings.iter().map(|&byte| machine.handle_uni(CONTROL, &[byte]).unwrap()).collect();
    let answers = steps.iter().filter(|step| matches!(step, Step::Answer { accepted: true, .. }));
    assert_eq!(answers.count(), 1, "SETTINGS answer the request that waited for them");
    for byte in hex(HEADER) {
        assert_eq!(machine.handle_control(vec![byte].into()), Ok(None));
    }
    assert_eq!(machine.handle_control(Bytes::from_static(b"x")), Ok(Some(b"x"[..].into())));
    let close = hex(CLOSE);
    let (last, before) = close.split_last().unwrap();
    for &byte in before {
        assert_eq!(machine.handle_connect(&[byte]), Ok(Step::Nothing));
    }
    assert!(matches!(machine.handle_connect(&[*last]), Ok(Step::Ended { code: 5, .. })));
}

#[test]
fn what_this_side_says_is_understood() {
    let settings = Settings::decode(&mut &WebTransport::settings()[..]).unwrap();
    assert_eq!(settings.supports_webtransport(), 1);
    assert!(!settings.contains_key(&Setting::QPACK_MAX_TABLE_CAPACITY));

    let mut machine = WebTransport::new();
    machine.handle_uni(CONTROL, &hex(SETTINGS)).unwrap();
    let Ok(Step::Answer { bytes, .. }) = machine.handle_connect(&hex(REQUEST)) else {
        panic!("a browser is let in");
    };
    assert_eq!(ConnectResponse::decode(&mut &bytes[..]).unwrap().status, StatusCode::OK);
    // The page's side of the farewell reads the same capsule.
    let farewell = WebTransport::farewell(0x21, "the token is malformed");
    let ended = Step::Ended { code: 0x21, reason: "the token is malformed".into() };
    assert_eq!(machine.handle_connect(&farewell), Ok(ended));
}

#[test]
fn other_paths_and_other_requests_are_not_found() {
    // A GET of "/" by the static table (RFC 9204 appendix A): method, scheme, path, authority.
    let get = frame(Frame::HEADERS, &hex("0000d1d7c15001 61"));
    for request in [request("/"), request("/v1/sessions"), request("/v1/session/other"), get] {
        let mut machine = WebTransport::new();
        machine.handle_uni(CONTROL, &hex(SETTINGS)).unwrap();
        let Ok(Step::Answer { accepted: false, bytes }) = machine.handle_connect(&request) else {
            panic!("there is nothing else here");
        };
        let error = ConnectResponse::decode(&mut &bytes[..]).unwrap_err();
        assert!(matches!(error, ConnectError::WrongStatus(Some(StatusCode::NOT_FOUND))));
        assert_eq!(machine.handle_connect_finished(), Ok(Step::Nothing), "the answer goes first");
    }
    // What follows the path does not matter.
    let mut machine = WebTransport::new();
    machine.handle_uni(CONTROL, &hex(SETTINGS)).unwrap();
    let step = machine.handle_connect(&request("/v1/session?page=1")).unwrap();
    assert!(matches!(step, Step::Answer { accepted: true, .. }));
}

#[test]
fn a_session_ends_with_its_stream() {
    let ended = Step::Ended { code: 0, reason: String::new() };
    assert_eq!(opened().handle_connect_finished(), Ok(ended));
    assert_eq!(WebTransport::new().handle_connect_finished(), Err(Breach::Incomplete));
}

#[test]
fn unknown_streams_are_refused_and_unknown_frames_skipped() {
    let mut machine = opened();
    // A WebTransport stream of the client, and GREASE (RFC 9114 section 7.2.8).
    for kind in [&[0x40, 0x54, 0][..], &[0x21][..]] {
        assert_eq!(machine.handle_uni(6, kind), Ok(Step::Refuse));
    }
    let grease = frame(Frame(VarInt::from_u32(0x21)), b"anything");
    assert_eq!(machine.handle_connect(&grease), Ok(Step::Nothing));
    // A capsule that nobody knows, then the close behind it, in one frame.
    let mut capsules = hex("2903abcdef");
    capsules.extend_from_slice(&hex(CLOSE)[2..]);
    let step = machine.handle_connect(&frame(Frame::DATA, &capsules)).unwrap();
    assert!(matches!(step, Step::Ended { code: 5, .. }));
}

#[test]
fn breaches_are_named() {
    let settings = hex(SETTINGS);
    let uni = |bytes: &[u8]| WebTransport::new().handle_uni(CONTROL, bytes);
    let connect = |bytes: &[u8]| WebTransport::new().handle_connect(bytes);
    assert_eq!(opened().handle_uni(6, &settings), Err(Breach::Stream), "a second control stream");
    assert_eq!(uni(&[1]), Err(Breach::Stream), "a push");
    assert_eq!(opened().handle_uni_finished(CONTROL), Err(Breach::Critical));
    assert_eq!(uni(&hex("000700")), Err(Breach::NoSettings), "GOAWAY first");
    assert_eq!(uni(&hex("000400")), Err(Breach::Settings), "no datagrams, no WebTransport");
    assert_eq!(uni(&hex("00040108")), Err(Breach::Settings), "a setting without a value");
    assert_eq!(connect(&frame(Frame::DATA, b"")), Err(Breach::Frame));
    // A reference to the dynamic table, of which there is none.
    assert_eq!(connect(&frame(Frame::HEADERS, &hex("020080"))), Err(Breach::Fields));
    let header = |text| opened().handle_control(hex(text).into());
    assert_eq!(header("0100"), Err(Breach::Frame), "a second request");
    assert_eq!(header("404104"), Err(Breach::Session));
    let not_text = frame(Frame::DATA, &hex("68430500000005ff"));
    assert_eq!(opened().handle_connect(&not_text), Err(Breach::Message));
}

#[test]
fn buffers_and_bytes_are_bounded() {
    type Take = Box<dyn FnMut(&[u8]) -> Result<Step, Breach>>;
    let endless = |most: usize, start: &[u8], mut take: Take| {
        let mut result = take(start);
        let mut sent = start.len();
        while result.is_ok() {
            assert!(sent <= most, "{sent} bytes are held");
            result = take(&[0; 64]);
            sent += 64;
        }
        assert_eq!(result, Err(Breach::Excess));
    };
    // A request of 16,000 bytes, SETTINGS of 16,000 bytes, a capsule of 16,000 bytes.
    let mut machine = WebTransport::new();
    let take = Box::new(move |bytes: &[u8]| machine.handle_connect(bytes));
    endless(H3_REQUEST_BYTES + 64, &hex("017e80"), take);
    let mut machine = WebTransport::new();
    let take = Box::new(move |bytes: &[u8]| machine.handle_uni(CONTROL, bytes));
    endless(H3_SETTINGS_BYTES + 64, &hex("00047e80"), take);
    let mut machine = opened();
    let take = Box::new(move |bytes: &[u8]| machine.handle_connect(bytes));
    endless(H3_CAPSULE_BYTES + 64, &hex("007e8068437e80"), take);
    // What is skipped is skipped for a while only.
    let mut machine = opened();
    machine.handle_uni(10, &hex(ENCODER)).unwrap();
    let take = Box::new(move |bytes: &[u8]| machine.handle_uni(10, bytes));
    endless(H3_OTHER_BYTES, &[], take);
    let mut machine = opened();
    let grease = frame(Frame(VarInt::from_u32(0x21)), &[0; 62]);
    let take = Box::new(move |_: &[u8]| machine.handle_connect(&grease));
    endless(H3_OTHER_BYTES, &[], take);
}

#[test]
fn codes_map_as_browsers_map_them() {
    for code in [0, 0x10, 0x1e, 0x21, 0x43, u32::MAX] {
        assert_eq!(web_transport_proto::error_from_http3(application_code(code)), Some(code));
    }
    for (index, breach) in Breach::ALL.into_iter().enumerate() {
        assert_eq!(breach.index(), index);
        assert_eq!(web_transport_proto::error_from_http3(breach.code()), None);
    }
}
