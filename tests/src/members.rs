//! The servers of a cluster, as one of them shows them by `rk member list`.

use crate::cluster::{Machine, START, Server};
use crate::process::check;
use serde_json::Value;

/// The members as a server shows them.
pub fn members(server: &Server) -> Result<Vec<Value>, String> {
    let text = check(&mut server.member(&["list", "-o", "json"]), None).map_err(|error| format!("{error:#}"))?;
    let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    Ok(list["members"].as_array().cloned().unwrap_or_default())
}

/// Waits for a leader, and returns its name.
pub fn leader(server: &Server) -> String {
    crate::until("there is a leader", START, || {
        let members = members(server)?;
        let leader = members.iter().find(|member| member["leader"] == true).ok_or("no leader")?;
        Ok::<_, String>(leader["name"].as_str().unwrap_or_default().to_owned())
    })
}

/// Waits until a server shows so many members, all of them voters that have everything and were heard lately.
pub fn all_well(server: &Server, count: usize) {
    crate::until(&format!("{count} voters that keep up"), START, || {
        let members = members(server)?;
        let well = |member: &&Value| {
            let heard = member["heard_seconds"].as_f64().is_none_or(|since| since < 3.0);
            member["role"] == "voter" && member["lag"].as_u64().is_some_and(|lag| lag < 50) && heard
        };
        let fit = members.iter().filter(well).count();
        if fit == count && members.len() == count { Ok(()) } else { Err(format!("{members:?}")) }
    });
}

/// Waits until an agent has these servers, and no other, on disk.
pub fn knows(agent: &Machine, urls: &[String]) {
    crate::until("the agent knows the servers", START, || {
        let kept = std::fs::read_to_string(agent.data_dir().join("agent/servers.json")).unwrap_or_default();
        let current = kept.split("\"former\"").next().unwrap_or_default();
        let right = urls.iter().all(|url| current.contains(url)) && current.matches("https://").count() == urls.len();
        if right { Ok(()) } else { Err(kept) }
    });
}
