"""A known data set on the disk, which is read where its Hub id would be."""

import json


def write_gsm8k(root):
    """Write two problems of either split below a folder, laid out as on the Hub."""
    folder = root / "openai" / "gsm8k"
    folder.mkdir(parents=True)
    files = [{"split": split, "path": f"{split}.jsonl"} for split in ("train", "test")]
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': [{'config_name': 'main', 'data_files': files}]})}\n---\n")
    for split in ("train", "test"):
        rows = [{"question": f"Count the digit {digit} of {split}.", "answer": f"#### {digit}"} for digit in (1, 2)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
