//! What a host tells of itself over HTTP: its metrics as numbers, its probes as verdicts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::host::{PATIENCE, Running};

/// The admin API of a host.
#[derive(Clone, Debug)]
pub(crate) struct Host(String);

/// The samples of a page of metrics, by name and labels as they stand there.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Host {
    /// Of a host whose `[admin]` listens on a port that the system chose.
    pub(crate) fn of(host: &mut Running) -> Host {
        let address = host.wait_logged("admin-api-listening")["address"].as_str().expect("an address").to_owned();
        Host(format!("http://{address}"))
    }

    /// What answers at `admin.probes` of such a host.
    pub(crate) fn probes_of(host: &mut Running) -> Host {
        let address = host.wait_logged("probes-listening")["address"].as_str().expect("an address").to_owned();
        Host(format!("http://{address}"))
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        &self.0
    }

    /// Status and text of an answer.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        let agent: ureq::Agent = config.build().into();
        let mut response = agent.get(format!("{}{path}", self.0)).call().expect("the host answers");
        let text = response.body_mut().read_to_string().expect("the answer is text");
        (response.status().as_u16(), text)
    }

    /// Whether a probe says yes.
    pub(crate) fn says_yes(&self, probe: &str) -> bool {
        let (status, text) = self.get(probe);
        assert!(matches!(status, 200 | 503), "{probe} answered {status}: {text}");
        status == 200
    }

    /// Its metrics.
    pub(crate) fn metrics(&self) -> Metrics {
        let (status, page) = self.get("/metrics");
        assert_eq!(status, 200, "{page}");
        Metrics::read(&page)
    }

    /// Waits until a sample has this value; all metrics then.
    #[track_caller]
    pub(crate) fn wait_for(&self, host: &mut Running, sample: &str, value: f64) -> Metrics {
        let mut metrics = self.metrics();
        host.wait_until(&format!("{sample} is {value}"), || {
            metrics = self.metrics();
            let is_so = metrics.0.get(sample) == Some(&value);
            if !is_so {
                std::thread::sleep(Duration::from_millis(50));
            }
            is_so
        });
        metrics
    }
}

impl Metrics {
    /// Reads a page in Prometheus' text format; fails on one that is none.
    pub(crate) fn read(page: &str) -> Metrics {
        let mut samples = BTreeMap::new();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(samples.insert(name.to_owned(), value).is_none(), "{name} stands twice");
        }
        Metrics(samples)
    }

    /// A sample's value.
    #[track_caller]
    pub(crate) fn value(&self, sample: &str) -> f64 {
        let all = || self.0.iter().map(|(name, value)| format!("{name} {value}\n")).collect::<String>();
        *self.0.get(sample).unwrap_or_else(|| panic!("there is no sample {sample} in\n{}", all()))
    }

    /// Whether there is such a sample.
    pub(crate) fn has(&self, sample: &str) -> bool {
        self.0.contains_key(sample)
    }

    /// Fails unless each sample has its value.
    #[track_caller]
    pub(crate) fn expect(&self, samples: &[(&str, f64)]) {
        let found: Vec<(&str, f64)> = samples.iter().map(|(name, _)| (*name, self.value(name))).collect();
        assert_eq!(found, samples);
    }

    /// The names of all metrics that have a sample.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|sample| sample.split('{').next().unwrap_or(sample))
    }
}
