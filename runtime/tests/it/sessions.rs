//! exec and attach.

use crate::support::{Host, able, shell, sleeper};
use runtime::spec::{AttachSpec, ContainerSpec, ExecSpec, TtySize, UserSpec};
use runtime::{RuntimeError, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) async fn outcome(mut session: Session) -> (i32, String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let reading = async {
        let first = async {
            if let Some(mut stdout) = stdout {
                stdout.read_to_string(&mut out).await.unwrap();
            }
        };
        let second = async {
            if let Some(mut stderr) = stderr {
                stderr.read_to_string(&mut err).await.unwrap();
            }
        };
        tokio::join!(first, second);
        session.wait().await.unwrap()
    };
    let code = tokio::time::timeout(crate::support::DEADLINE, reading).await.expect("session does not end");
    (code, out, err)
}

pub(crate) fn command(args: &[&str]) -> ExecSpec {
    ExecSpec { args: args.iter().map(|a| (*a).to_owned()).collect(), ..ExecSpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_has_streams_environment_user_and_exit_code() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("exec").await;
    let id = host.start(&pod, ContainerSpec { env: vec!["OF=container".into()], ..sleeper("c") }).await;
    let spec =
        ExecSpec { env: vec!["EXTRA=1".into()], ..command(&["sh", "-c", "echo $OF $EXTRA; pwd; echo no >&2; exit 5"]) };
    let (code, out, err) = outcome(host.runtime.exec(&id, spec).await.unwrap()).await;
    assert_eq!((code, out.as_str(), err.as_str()), (5, "container 1\n/tmp\n", "no\n"));
    let user = UserSpec { username: Some("web".into()), ..UserSpec::default() };
    let spec = ExecSpec { user: Some(user), ..command(&["sh", "-c", "id; echo $HOME"]) };
    let (_, out, _) = outcome(host.runtime.exec(&id, spec).await.unwrap()).await;
    assert_eq!(out, "uid=33(web) gid=34(www) groups=34(www),77(extra)\n/srv\n");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_takes_input_to_its_end() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("cat").await;
    let id = host.start(&pod, sleeper("c")).await;
    let mut session = host.runtime.exec(&id, ExecSpec { stdin: true, ..command(&["wc", "-c"]) }).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let data = vec![b'x'; 3 << 20];
    let writing = tokio::spawn(async move {
        stdin.write_all(&data).await.unwrap();
    });
    let (code, out, _) = outcome(session).await;
    writing.await.unwrap();
    assert_eq!((code, out.trim()), (0, "3145728"));
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_of_a_missing_program_says_so() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("nope").await;
    let id = host.start(&pod, sleeper("c")).await;
    let error = host.runtime.exec(&id, command(&["nosuch"])).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::CannotRun(text) if text.contains("executable file not found in $PATH")));
    let error = host.runtime.exec(&id, command(&["/etc/passwd"])).await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_on_a_terminal_knows_its_size() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("tty").await;
    let id = host.start(&pod, sleeper("c")).await;
    let size = TtySize { width: 101, height: 33 };
    let spec =
        ExecSpec { tty: true, stdin: true, size: Some(size), ..command(&["sh", "-c", "read x; stty size; tty"]) };
    let mut session = host.runtime.exec(&id, spec).await.unwrap();
    assert!(session.stderr.is_none());
    session.control.resize(TtySize { width: 77, height: 11 }).await;
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"\n").await.unwrap();
    let (code, out, _) = outcome(session).await;
    assert_eq!(code, 0);
    assert!(out.contains("11 77") && out.contains("/dev/pts/"), "{out:?}");
    drop(stdin);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_speaks_with_the_first_process() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("attach").await;
    let spec = ContainerSpec { stdin: true, stdin_once: true, ..shell("c", "cat; echo end >&2; exit 4") };
    let id = host.runtime.create_container(&pod, spec).await.unwrap();
    let all = AttachSpec { stdin: true, stdout: true, stderr: true, size: None };
    let mut session = host.runtime.attach(&id, all).await.unwrap();
    host.runtime.start_container(&id).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    drop(stdin);
    assert_eq!(outcome(session).await, (4, "hello\n".into(), "end\n".into()));
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_on_a_terminal_is_attached_to_and_logged() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("ctty").await;
    let log = host.log_path("tty");
    let spec = ContainerSpec {
        tty: true,
        stdin: true,
        log_path: Some(log.clone()),
        ..shell("c", "read line; echo got $line; stty size; test -c /dev/console && echo console")
    };
    let id = host.runtime.create_container(&pod, spec).await.unwrap();
    let size = Some(TtySize { width: 90, height: 20 });
    let all = AttachSpec { stdin: true, stdout: true, stderr: true, size };
    let mut session = host.runtime.attach(&id, all).await.unwrap();
    host.runtime.start_container(&id).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"this\n").await.unwrap();
    let (code, out, _) = outcome(session).await;
    assert_eq!(code, 0);
    assert!(out.contains("got this") && out.contains("20 90") && out.contains("console"), "{out:?}");
    assert!(crate::support::log_text(&log).contains("got this"));
    host.close().await;
}
