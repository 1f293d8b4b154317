"""Run Qwen models in your process, over libqwen (placeholder)."""
