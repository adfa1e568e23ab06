//! `globalfs bench fetch`: what it measures adds up, against sites of its own and against running ones.

mod common;

use common::{Setup, noise, programs, run};
use serde_json::Value;
use std::fs;

// The functions beside the tests fail a test as the tests themselves do.
#[allow(clippy::unwrap_used)]
fn bench(arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = ["bench", "fetch", "--json"].iter().chain(arguments).copied().collect();
    let (status, stdout, stderr) = run(&programs().globalfs, &arguments);
    assert_eq!(status, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[track_caller]
fn fails(arguments: &[&str], status: i32, message: &str) {
    let arguments: Vec<&str> = ["bench", "fetch"].iter().chain(arguments).copied().collect();
    let (found, stdout, stderr) = run(&programs().globalfs, &arguments);
    assert_eq!((found, stdout.as_str()), (status, ""), "{stderr}");
    assert!(stderr.contains(message), "{stderr}");
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} in {value}"))
}

/// What holds for every pass, wherever it was measured.
fn check_pass(pass: &Value) {
    let read = number(pass, "bytes_read");
    assert!(number(pass, "node_wire_bytes") >= read, "noise does not compress: {pass}");
    let (first, whole) = (&pass["first_byte_us"], &pass["whole_file_us"]);
    for times in [first, whole] {
        let [p50, p90, p99, max] = ["p50", "p90", "p99", "max"].map(|key| number(times, key));
        assert!(0 < p50 && p50 <= p90 && p90 <= p99 && p99 <= max, "{times}");
    }
    assert!(number(first, "max") <= number(whole, "max"), "{pass}");
    let rate = pass["bytes_per_s"].as_f64().unwrap_or_default();
    let seconds = pass["seconds"].as_f64().unwrap_or_default();
    assert!((rate * seconds / read as f64 - 1.0).abs() < 0.01, "{pass}");
    assert!(pass["of_tcp_loopback"].as_f64().is_some_and(|part| part > 0.0), "{pass}");
}

#[test]
fn sites_of_its_own_tell_cold_from_warm() {
    let report = bench(&["--local", "--sizes", "4KiB,300KiB", "--concurrency", "1,4", "--rounds", "2"]);
    let passes = report["passes"].as_array().unwrap();
    let of =
        |pass: &Value| (number(pass, "size_bytes"), number(pass, "concurrency"), pass["state"] == "cold");
    let want = [4096, 300 * 1024].into_iter().flat_map(|size| {
        [1, 4].into_iter().flat_map(move |readers| [(size, readers, true), (size, readers, false)])
    });
    assert_eq!(passes.iter().map(of).collect::<Vec<_>>(), want.collect::<Vec<_>>());
    for pass in passes {
        check_pass(pass);
        let (read, wire) = (number(pass, "bytes_read"), number(pass, "site_wire_bytes"));
        assert_eq!(read, number(pass, "size_bytes") * number(pass, "reads"));
        match pass["state"].as_str() {
            Some("cold") => assert!((read..2 * read).contains(&wire), "all of it moves, once: {pass}"),
            // What moves is the question whether the file is still the same.
            _ => assert!(wire < 1000 * number(pass, "reads"), "no content moves again: {pass}"),
        }
    }
    let bounds = &report["bounds"];
    assert!(number(&bounds["round_trip_us"], "p50") > 0, "{bounds}");
}

#[test]
fn kinds_of_data_show_what_compresses_and_what_moves_twice() {
    let report = bench(&["--sizes", "512KiB", "--concurrency", "2"]);
    let ratios = report["ratios"].as_array().unwrap();
    let of = |kind: &str| ratios.iter().find(|ratio| ratio["data"] == kind).unwrap();
    let compression = |kind| of(kind)["compression"].as_f64().unwrap();
    assert!((0.95..=1.0).contains(&compression("noise")), "{ratios:?}");
    assert!(compression("text") > 1.5, "{ratios:?}");
    assert!(compression("zeros") > 100.0, "{ratios:?}");
    for ratio in ratios {
        let (read, fetched) = (number(ratio, "bytes_read"), number(ratio, "fetched_bytes"));
        assert_eq!(read, number(ratio, "files") * 512 * 1024);
        let dedup = ratio["dedup"].as_f64().unwrap();
        assert!((dedup - read as f64 / fetched as f64).abs() < 0.01, "{ratio}");
        assert!(fetched <= read, "{ratio}");
    }
    assert_eq!(number(of("duplicates"), "distinct_bytes"), 512 * 1024);
}

#[test]
fn a_running_site_is_measured_as_one_of_its_nodes() {
    let contents: Vec<Vec<u8>> = (0..4).map(|n| noise(n, 300_000)).collect();
    let mut test = Setup::default().start(|origin| {
        fs::create_dir_all(origin.join("data/deep")).unwrap();
        for (n, content) in contents.iter().enumerate() {
            fs::write(
                origin.join(if n % 2 == 0 { "data" } else { "data/deep" }).join(n.to_string()),
                content,
            )
            .unwrap();
        }
        fs::write(origin.join("empty"), "").unwrap();
    });
    let config = test.cluster.add_node("bench", "cloud", "4MiB", "").unwrap();
    let config = config.to_str().unwrap();
    let metrics = test.cluster.metrics_address("cloud").unwrap().to_string();
    let all = ["--config", config, "--path", "/data", "--concurrency", "1,2", "--site-metrics", &metrics];
    let report = bench(&all);
    let passes = report["passes"].as_array().unwrap();
    assert_eq!(passes.len(), 4);
    passes.iter().for_each(check_pass);
    let cold = passes.iter().filter(|pass| pass["state"] == "cold");
    let moved: u64 = cold.map(|pass| number(pass, "site_wire_bytes")).sum();
    assert!((1_200_000..1_400_000).contains(&moved), "{passes:?}");
    let again = bench(&all);
    let moved =
        again["passes"].as_array().unwrap().iter().map(|pass| number(pass, "site_wire_bytes")).sum::<u64>();
    assert!(moved < 20_000, "another run is cold to itself, but the site has the files: {moved}");
    let blind = bench(&["--config", config, "--path", "/data/0", "--concurrency", "1"]);
    assert_eq!(blind["passes"][0]["site_wire_bytes"], Value::Null);
    assert_eq!(blind["ratios"][0]["leg"], "site to node");
    fails(&["--config", config, "--path", "/nope"], 1, "cannot look at /nope: No such file or directory");
    fails(&["--config", config, "--path", "/empty"], 1, "neither a directory nor a file with content");
}

#[test]
fn bad_arguments_say_what_is_wrong() {
    fails(&["--sizes", "0"], 2, "no first byte");
    fails(&["--sizes", "4K"], 2, "the unit K is ambiguous");
    fails(&["--concurrency", "0"], 2, "0 is not in 1..=256");
    fails(&["--rounds", "0"], 2, "0 is not in");
    fails(&["--config", "nope"], 2, "--path");
    fails(&["--config", "nope", "--path", "x"], 2, "a path begins with '/'");
    fails(&["--config", "nope", "--path", "/x"], 1, "nope: cannot be read");
    fails(&["--config", "nope", "--path", "/x", "--sizes", "1"], 2, "cannot be used with");
    fails(&["--sizes", "900PiB"], 1, "free: choose smaller --sizes");
    fails(&["--dir", "/nonexistent"], 1, "cannot use /nonexistent");
}
