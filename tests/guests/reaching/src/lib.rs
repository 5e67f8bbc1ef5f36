//! Activities that ask by HTTP for whatever they are told to: a host should let them have what their manifest and
//! its operator allow, and nothing else.

use backstitch_sdk::http::Request;
use backstitch_sdk::{Error, Result, activities, export_activities};

/// Each reaches out in its own way.
#[activities]
pub trait Reach {
    /// Asks with a header, and says the status and how many bytes came back.
    async fn fetch(url: String, header: Option<(String, String)>) -> (u16, usize);
    /// Follows a redirect by hand.
    async fn follow(url: String) -> u16;
    /// Sends so many bytes.
    async fn upload(url: String, bytes: usize) -> u16;
    /// Asks so often, and gives the code of the last failure.
    async fn flood(url: String, times: u32) -> String;
}

/// Whoever can be reached.
#[derive(Debug)]
pub struct World;

impl Reach for World {
    async fn fetch(url: String, header: Option<(String, String)>) -> Result<(u16, usize)> {
        let request = Request::get(url);
        let request = match header {
            Some((name, value)) => request.header(name, value),
            None => request,
        };
        let response = request.send()?;
        Ok((response.status(), response.body().len()))
    }

    async fn follow(url: String) -> Result<u16> {
        let response = Request::get(url).send()?;
        let location =
            response.header("location").ok_or_else(|| Error::application("stays", "no redirect"))?;
        Ok(Request::get(location).send()?.status())
    }

    async fn upload(url: String, bytes: usize) -> Result<u16> {
        Ok(Request::post(url).body(vec![b'x'; bytes]).send()?.status())
    }

    async fn flood(url: String, times: u32) -> Result<String> {
        let mut last = String::new();
        for _ in 0..times {
            if let Err(error) = Request::get(url.clone()).send() {
                last = error.code().to_owned();
            }
        }
        Ok(last)
    }
}

export_activities!(World as Reach);
