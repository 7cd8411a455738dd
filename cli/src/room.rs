//! `stentor room`: what the HTTP API does, from the shell.

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use stentor_relay::exit::{self, Error};
use stentor_relay::web::room_path;

use crate::api::ApiArgs;

const EXAMPLES: &str = "\
Examples:
  stentor room create --dev --title 'Town hall' --public
      makes a room at the origin of ./stentor-dev and prints its links and its host's token
  stentor room list --dev
  STENTOR_TOKEN=$(cat host.token) stentor room mute --api origin.example:4433 town-hall ann
  stentor room ban --dev town-hall guest-Zk3v0A --with-address
      cuts the person at every relay within a second, for good, and its address, too

The token is a host's or an API key (stentor token --room '*' --role host ...); with --dev it is
made on the spot. Prints the API's answer as JSON.
Exit codes: 0 done, 1 the origin cannot be reached or says no, 2 wrong usage.";

/// What to do with rooms.
#[derive(Debug, Subcommand)]
pub enum RoomCommand {
    /// Make a room
    #[command(after_help = EXAMPLES)]
    Create(CreateArgs),
    /// List public rooms
    List(ListArgs),
    /// Show a room's document
    Show(RoomArgs),
    /// Show stage, raised hands, invitations and bans
    People(RoomArgs),
    /// Show live statistics
    Stats(RoomArgs),
    /// End a room
    End(RoomArgs),
    /// Take no newcomers
    Lock(RoomArgs),
    /// Take newcomers again
    Unlock(RoomArgs),
    /// Invite somebody onto the stage
    Invite(PersonArgs),
    /// Take somebody from the stage
    Demote(PersonArgs),
    /// Mute somebody
    Mute(PersonArgs),
    /// Lift that mute
    Unmute(PersonArgs),
    /// Make somebody a co-host
    CoHost(PersonArgs),
    /// Lower somebody's hand
    LowerHand(PersonArgs),
    /// Put somebody out; tokens until here end
    Remove(PersonArgs),
    /// Put somebody out for good
    Ban(BanArgs),
    /// Lift a ban
    Unban(PersonArgs),
}

/// What the room is made from.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// Its title
    #[arg(long)]
    title: String,
    /// Its name in links; made from the title if absent
    #[arg(long)]
    name: Option<String>,
    /// What it is about
    #[arg(long, default_value = "", hide_default_value = true)]
    topic: String,
    /// Listeners need no token
    #[arg(long)]
    public: bool,
    /// When it is to begin (seconds since 1970, UTC)
    #[arg(long, value_name = "UNIX_S")]
    starts_at: Option<u64>,
}

/// Which rooms.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// live, scheduled, open, separated by commas
    #[arg(long, default_value = "live,scheduled,open")]
    state: String,
}

/// Which room.
#[derive(Debug, Args)]
pub struct RoomArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// The room's name
    room: String,
}

/// Who, in which room.
#[derive(Debug, Args)]
pub struct PersonArgs {
    #[command(flatten)]
    room: RoomArgs,
    /// Whose identity
    identity: String,
}

/// Who is banned.
#[derive(Debug, Args)]
pub struct BanArgs {
    #[command(flatten)]
    person: PersonArgs,
    /// The address at which the person is met, too
    #[arg(long)]
    with_address: bool,
}

/// Does it, and prints the answer.
pub(crate) fn run(command: &RoomCommand) -> Result<(), Error> {
    let get = |args: &RoomArgs, more: &str| args.call(Method::GET, more, &Value::Null);
    let order = |args: &RoomArgs, action: &str| args.act(json!({ "action": action }));
    let about = |args: &PersonArgs, action: &str| {
        args.room.act(json!({ "action": action, "identity": args.identity }))
    };
    let answer = match command {
        RoomCommand::Create(args) => create(args),
        RoomCommand::List(args) => {
            let path = format!("/v1/rooms?state={}", args.state);
            args.api.call(Method::GET, &path, &Value::Null)
        }
        RoomCommand::Show(args) => get(args, ""),
        RoomCommand::People(args) => get(args, "/participants"),
        RoomCommand::Stats(args) => get(args, "/stats"),
        RoomCommand::End(args) => order(args, "end"),
        RoomCommand::Lock(args) => order(args, "lock"),
        RoomCommand::Unlock(args) => order(args, "unlock"),
        RoomCommand::Invite(args) => about(args, "invite"),
        RoomCommand::Demote(args) => about(args, "demote"),
        RoomCommand::Mute(args) => about(args, "mute"),
        RoomCommand::Unmute(args) => about(args, "unmute"),
        RoomCommand::CoHost(args) => about(args, "make_co_host"),
        RoomCommand::LowerHand(args) => about(args, "lower_hand"),
        RoomCommand::Remove(args) => about(args, "remove"),
        RoomCommand::Unban(args) => about(args, "unban"),
        RoomCommand::Ban(BanArgs { person, with_address }) => person.room.act(json!({
            "action": "ban", "identity": person.identity, "address": with_address,
        })),
    };
    print(&answer?)
}

/// Prints an answer for people and programs alike.
pub(crate) fn print(answer: &Value) -> Result<(), Error> {
    exit::print(&serde_json::to_string_pretty(answer).unwrap_or_default())
}

fn create(args: &CreateArgs) -> Result<Value, Error> {
    let mut body = json!({ "title": args.title, "topic": args.topic, "public": args.public });
    if let Some(name) = &args.name {
        body["name"] = json!(name);
    }
    if let Some(at) = args.starts_at {
        body["starts_at"] = json!(at);
    }
    args.api.call(Method::POST, "/v1/rooms", &body)
}

impl RoomArgs {
    fn act(&self, order: Value) -> Result<Value, Error> {
        self.call(Method::POST, "/actions", &order)
    }

    fn call(&self, method: Method, more: &str, body: &Value) -> Result<Value, Error> {
        self.api.call(method, &format!("/v1{}{more}", room_path(&self.room)), body)
    }
}
