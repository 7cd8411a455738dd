//! WebTransport over HTTP/3, as far as one session on one connection needs it
//! (draft-ietf-webtrans-http3, RFC 9114, RFC 9220, RFC 9297): its opening, the header of its control
//! stream, and its end. Bytes of streams in, [`Step`]s out; no socket, no clock, no connection.
//!
//! ```text
//! node ── SETTINGS ──▶   ◀── SETTINGS ── page      unidirectional streams
//!      ◀── CONNECT https://HOST/v1/session         first bidirectional stream: 200, then capsules
//!      ◀── 0x41, session 0, control messages       second bidirectional stream
//! ```
//!
//! Everything else that HTTP/3 lets a client send is read and dropped, up to a bound. Encoding is
//! web-transport-proto's.

use bytes::{Buf as _, Bytes, BytesMut};
use stentor_proto::limits::{
    H3_CAPSULE_BYTES, H3_OTHER_BYTES, H3_REQUEST_BYTES, H3_SETTINGS_BYTES, H3_UNI_STREAMS,
};
use stentor_proto::wire::WEBTRANSPORT_PATH;
use web_transport_proto::http::StatusCode;
use web_transport_proto::{
    Capsule, CapsuleError, ConnectError, ConnectRequest, ConnectResponse, Frame, Setting, Settings,
    SettingsError, StreamUni, VarInt, error_to_http3,
};

/// The code of a connection that ends as it should (`H3_NO_ERROR`, RFC 9114 section 8.1).
pub const NO_ERROR: u64 = 0x100;

/// The code of a stream or connection that stands for an application's code
/// (draft-ietf-webtrans-http3 section 4.3).
#[must_use]
pub const fn application_code(code: u32) -> u64 {
    error_to_http3(code)
}

macro_rules! breaches {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// How a client breaks HTTP/3 or WebTransport; the connection is closed for it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Breach {
            $($(#[$doc])* $name,)*
        }

        impl Breach {
            /// Every breach, in the order of [`Breach::index`].
            pub const ALL: [Self; [$($code),*].len()] = [$(Self::$name),*];

            /// The error code on the wire (RFC 9114 section 8.1, RFC 9204 section 6).
            #[must_use]
            pub const fn code(self) -> u64 {
                match self { $(Self::$name => $code,)* }
            }

            /// A stable name, for logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// A small number, for tables.
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

breaches! {
    /// A second stream of a kind that there is one of, or a push from a client.
    Stream = 0x103, "h3_stream";
    /// HTTP/3's control stream or a QPACK stream has ended.
    Critical = 0x104, "h3_critical_stream";
    /// A frame where another one belongs.
    Frame = 0x105, "h3_frame";
    /// More bytes than the opening and the end of a session need.
    Excess = 0x107, "h3_excess";
    /// A stream of a session that there is not.
    Session = 0x108, "h3_session";
    /// SETTINGS that are malformed, or that do without datagrams.
    Settings = 0x109, "h3_settings";
    /// HTTP/3's control stream begins with something else than SETTINGS.
    NoSettings = 0x10a, "h3_no_settings";
    /// A request that ends before it is whole.
    Incomplete = 0x10d, "h3_incomplete";
    /// A request or capsule that is malformed.
    Message = 0x10e, "h3_message";
    /// Header fields that cannot be decoded, or that need a dynamic table.
    Fields = 0x200, "h3_fields";
}

/// What the connection is to do after it has handed bytes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Ask the client to stop sending on this stream: nobody reads it.
    Refuse,
    /// Send this answer to the CONNECT request. The session is open if it was accepted; else the
    /// answer is all that is sent on that stream.
    Answer {
        /// Whether it is a 200.
        accepted: bool,
        /// The response's header frame.
        bytes: Bytes,
    },
    /// The client has ended the session.
    Ended {
        /// Its application error code.
        code: u32,
        /// Its reason: anybody's text.
        reason: String,
    },
}

/// The state of one session.
#[derive(Debug)]
pub struct WebTransport {
    request: Request,
    /// Whether the client's SETTINGS have come, before which no request is answered.
    settings: bool,
    uni: Vec<(u64, Uni)>,
    /// Kinds of unidirectional streams that have been seen, of which there is one each.
    seen: [bool; 3],
    frames: Frames,
    /// The header of the session's control stream, as far as it has come; none once it is whole.
    header: Option<BytesMut>,
    /// What the client may still send beside its control stream.
    bytes_left: usize,
}

/// The CONNECT request.
#[derive(Debug)]
enum Request {
    Partial(BytesMut),
    Whole(StatusCode),
    Answered { accepted: bool },
}

/// A unidirectional stream of the client.
#[derive(Debug)]
enum Uni {
    /// Its kind is not there as a whole.
    Unknown(BytesMut),
    /// HTTP/3's control stream up to the end of SETTINGS.
    Settings(BytesMut),
    /// Critical, and of no further use.
    Drained,
}

impl WebTransport {
    /// A connection whose peer chose HTTP/3.
    #[must_use]
    pub fn new() -> Self {
        Self {
            request: Request::Partial(BytesMut::new()),
            settings: false,
            uni: Vec::new(),
            seen: [false; 3],
            frames: Frames::default(),
            header: Some(BytesMut::new()),
            bytes_left: H3_OTHER_BYTES,
        }
    }

    /// What this side sends first, on a unidirectional stream that stays open: SETTINGS without a
    /// dynamic table, so that no QPACK stream is needed.
    #[must_use]
    pub fn settings() -> Bytes {
        let mut settings = Settings::default();
        settings.enable_webtransport(1);
        let most = u32::try_from(H3_REQUEST_BYTES).expect("a few kilobytes");
        settings.insert(Setting::MAX_FIELD_SECTION_SIZE, VarInt::from_u32(most));
        let mut out = BytesMut::new();
        settings.encode(&mut out);
        out.freeze()
    }

    /// What this side sends last on the CONNECT stream: why the session ends. A page sees it in
    /// `WebTransport.closed`.
    #[must_use]
    pub fn farewell(code: u32, reason: &str) -> Bytes {
        let mut capsule = BytesMut::new();
        Capsule::CloseWebTransportSession { code, reason: reason.to_owned() }.encode(&mut capsule);
        let mut out = BytesMut::new();
        Frame::DATA.encode(&mut out);
        let length = u32::try_from(capsule.len()).expect("a reason is short");
        VarInt::from_u32(length).encode(&mut out);
        out.unsplit(capsule);
        out.freeze()
    }

    /// Bytes of a unidirectional stream, in order.
    ///
    /// # Errors
    /// A breach of the protocol.
    pub fn handle_uni(&mut self, stream: u64, bytes: &[u8]) -> Result<Step, Breach> {
        self.spend(bytes.len())?;
        let at = match self.uni.iter().position(|(id, _)| *id == stream) {
            Some(at) => at,
            None if self.uni.len() >= H3_UNI_STREAMS as usize => return Err(Breach::Excess),
            None => {
                self.uni.push((stream, Uni::Unknown(BytesMut::new())));
                self.uni.len() - 1
            }
        };
        if let Uni::Unknown(begun) = &mut self.uni[at].1 {
            begun.extend_from_slice(bytes);
            let Ok(kind) = StreamUni::decode(&mut &begun[..]) else { return Ok(Step::Nothing) };
            let begun = std::mem::take(begun);
            match self.sort(kind, begun)? {
                Some(uni) => self.uni[at].1 = uni,
                None => {
                    self.uni.swap_remove(at);
                    return Ok(Step::Refuse);
                }
            }
        } else if let Uni::Settings(begun) = &mut self.uni[at].1 {
            begun.extend_from_slice(bytes);
        }
        if let Uni::Settings(begun) = &self.uni[at].1
            && take_settings(begun)?
        {
            self.uni[at].1 = Uni::Drained;
            self.settings = true;
            return self.answer();
        }
        Ok(Step::Nothing)
    }

    /// A unidirectional stream has ended, or was reset.
    ///
    /// # Errors
    /// When it is one that has to stay open.
    pub fn handle_uni_finished(&mut self, stream: u64) -> Result<(), Breach> {
        let Some(at) = self.uni.iter().position(|(id, _)| *id == stream) else { return Ok(()) };
        match self.uni.swap_remove(at).1 {
            Uni::Unknown(_) => Ok(()),
            Uni::Settings(_) | Uni::Drained => Err(Breach::Critical),
        }
    }

    /// Bytes of the first bidirectional stream, in order.
    ///
    /// # Errors
    /// A breach of the protocol.
    pub fn handle_connect(&mut self, bytes: &[u8]) -> Result<Step, Breach> {
        self.spend(bytes.len())?;
        let Request::Partial(begun) = &mut self.request else {
            return Ok(self.frames.take(bytes)?.map_or(Step::Nothing, ended));
        };
        begun.extend_from_slice(bytes);
        let mut rest = &begun[..];
        let Some(status) = take_request(&mut rest)? else {
            return match begun.len() > H3_REQUEST_BYTES {
                true => Err(Breach::Excess),
                false => Ok(Step::Nothing),
            };
        };
        let rest = rest.to_vec();
        self.request = Request::Whole(status);
        match self.frames.take(&rest)? {
            Some(close) => Ok(ended(close)),
            None => self.answer(),
        }
    }

    /// The CONNECT stream has ended, or was reset: the session is over, if there was one.
    ///
    /// # Errors
    /// When there was no whole request on it.
    pub fn handle_connect_finished(&mut self) -> Result<Step, Breach> {
        match self.request {
            Request::Partial(_) => Err(Breach::Incomplete),
            Request::Whole(StatusCode::OK) | Request::Answered { accepted: true } => {
                Ok(ended((0, String::new())))
            }
            Request::Whole(_) | Request::Answered { accepted: false } => Ok(Step::Nothing),
        }
    }

    /// Bytes of the second bidirectional stream, in order, once the session is open: what follows its
    /// header, if there is any.
    ///
    /// # Errors
    /// When the stream does not belong to the session.
    pub fn handle_control(&mut self, bytes: Bytes) -> Result<Option<Bytes>, Breach> {
        let Some(begun) = &mut self.header else { return Ok(Some(bytes)) };
        begun.extend_from_slice(&bytes);
        let mut rest = &begun[..];
        let Ok(kind) = Frame::decode(&mut rest) else { return Ok(None) };
        if kind != Frame::WEBTRANSPORT {
            return Err(Breach::Frame);
        }
        let Ok(session) = VarInt::decode(&mut rest) else { return Ok(None) };
        // A session is named by its CONNECT stream, which is the connection's first, number 0: what
        // goes before each datagram hangs on it (RFC 9297 section 2.1).
        if session != VarInt::from_u32(0) {
            return Err(Breach::Session);
        }
        let length = begun.len() - rest.len();
        let after = self.header.take().map(|begun| begun.freeze().slice(length..));
        Ok(after.filter(|after| !after.is_empty()))
    }

    /// Sorts a unidirectional stream by its kind; none is one that nobody reads.
    fn sort(&mut self, kind: StreamUni, begun: BytesMut) -> Result<Option<Uni>, Breach> {
        let (at, uni) = match kind {
            StreamUni::CONTROL => (0, Uni::Settings(begun)),
            StreamUni::QPACK_ENCODER => (1, Uni::Drained),
            StreamUni::QPACK_DECODER => (2, Uni::Drained),
            StreamUni::PUSH => return Err(Breach::Stream),
            _ => return Ok(None),
        };
        match std::mem::replace(&mut self.seen[at], true) {
            true => Err(Breach::Stream),
            false => Ok(Some(uni)),
        }
    }

    /// The answer to a request that is whole, once SETTINGS are there.
    fn answer(&mut self) -> Result<Step, Breach> {
        let Request::Whole(status) = self.request else { return Ok(Step::Nothing) };
        if !self.settings {
            return Ok(Step::Nothing);
        }
        let accepted = status == StatusCode::OK;
        self.request = Request::Answered { accepted };
        let mut bytes = BytesMut::new();
        ConnectResponse::new(status).encode(&mut bytes).map_err(|_| Breach::Message)?;
        Ok(Step::Answer { accepted, bytes: bytes.freeze() })
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Breach> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(Breach::Excess)?;
        Ok(())
    }
}

impl Default for WebTransport {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether SETTINGS are whole and say what a session needs.
fn take_settings(begun: &[u8]) -> Result<bool, Breach> {
    match Settings::decode(&mut &begun[..]) {
        Ok(settings) if settings.supports_webtransport() > 0 => Ok(true),
        Ok(_) => Err(Breach::Settings),
        Err(SettingsError::UnexpectedEnd) if begun.len() <= H3_SETTINGS_BYTES => Ok(false),
        Err(SettingsError::UnexpectedEnd | SettingsError::FrameTooLarge) => Err(Breach::Excess),
        Err(SettingsError::UnexpectedFrame(_)) => Err(Breach::NoSettings),
        Err(_) => Err(Breach::Settings),
    }
}

/// The status with which a request is answered, once it is whole. Any origin may ask: rooms are public
/// or need a token, and a page holds no other right of its visitor's.
fn take_request(begun: &mut &[u8]) -> Result<Option<StatusCode>, Breach> {
    match ConnectRequest::decode(begun) {
        Ok(request) if request.url.path() == WEBTRANSPORT_PATH => Ok(Some(StatusCode::OK)),
        Ok(_) | Err(ConnectError::WrongMethod(_) | ConnectError::WrongProtocol(_)) => {
            Ok(Some(StatusCode::NOT_FOUND))
        }
        Err(ConnectError::UnexpectedEnd) => Ok(None),
        Err(ConnectError::UnexpectedFrame(_)) => Err(Breach::Frame),
        Err(ConnectError::FieldSectionTooLarge | ConnectError::FrameTooLarge) => {
            Err(Breach::Excess)
        }
        Err(ConnectError::QpackError(_)) => Err(Breach::Fields),
        Err(_) => Err(Breach::Message),
    }
}

type Close = (u32, String);

fn ended((code, reason): Close) -> Step {
    Step::Ended { code, reason }
}

/// The frames behind a request, of which DATA holds capsules (RFC 9297 section 3).
#[derive(Debug, Default)]
struct Frames {
    /// A frame's type and length, as far as they have come.
    head: BytesMut,
    /// What is still to come of a frame.
    left: u64,
    /// Whether that is DATA.
    data: bool,
    /// A capsule, as far as it has come.
    capsule: BytesMut,
}

impl Frames {
    /// Takes bytes; the close, if it is in them.
    fn take(&mut self, mut bytes: &[u8]) -> Result<Option<Close>, Breach> {
        while let Some(&byte) = bytes.first() {
            if self.left > 0 {
                let most = usize::try_from(self.left).unwrap_or(usize::MAX);
                let (now, later) = bytes.split_at(most.min(bytes.len()));
                self.left -= now.len() as u64;
                bytes = later;
                if self.data {
                    self.capsule.extend_from_slice(now);
                    if let Some(close) = self.capsules()? {
                        return Ok(Some(close));
                    }
                }
                continue;
            }
            bytes = &bytes[1..];
            self.head.extend_from_slice(&[byte]);
            let mut head = &self.head[..];
            if let Ok(kind) = Frame::decode(&mut head)
                && let Ok(length) = VarInt::decode(&mut head)
            {
                self.head.clear();
                (self.data, self.left) = (kind == Frame::DATA, length.into_inner());
            }
        }
        Ok(None)
    }

    fn capsules(&mut self) -> Result<Option<Close>, Breach> {
        loop {
            let mut rest = &self.capsule[..];
            match Capsule::decode(&mut rest) {
                Ok(Capsule::CloseWebTransportSession { code, reason }) => {
                    return Ok(Some((code, reason)));
                }
                Ok(_) => {
                    let length = self.capsule.len() - rest.len();
                    self.capsule.advance(length);
                }
                Err(CapsuleError::UnexpectedEnd | CapsuleError::VarInt(_)) => {
                    return match self.capsule.len() > H3_CAPSULE_BYTES {
                        true => Err(Breach::Excess),
                        false => Ok(None),
                    };
                }
                Err(CapsuleError::MessageTooLong) => return Err(Breach::Excess),
                Err(_) => return Err(Breach::Message),
            }
        }
    }
}

#[cfg(test)]
mod tests;
