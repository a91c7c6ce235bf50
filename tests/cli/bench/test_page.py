from __future__ import annotations


def test_a_page_without_results_has_the_papers_tables(cli, tmp_path):
    done = cli("bench", "page", "-o", tmp_path / "page.md")
    assert done.code == 0, done.err
    text = (tmp_path / "page.md").read_text()
    assert "| SSID-KD |" in text and "No speeds of engines" in text and done.out.strip().endswith("page.md")


def test_a_file_that_is_no_result_is_refused(cli, tmp_path):
    (tmp_path / "x.json").write_text("[]")
    done = cli("bench", "page", tmp_path / "x.json", "-o", tmp_path / "page.md")
    assert done.code == 2 and "does not hold rows" in done.err and not (tmp_path / "page.md").exists()
