from setuptools import setup

setup(
    name="ser-head-attention",
    version="0.1.0",
    description="Attentive statistics pooling, an emotion head for ser_plugins",
    license="Apache-2.0",
    py_modules=["ser_head_attention"],
    install_requires=["ser_plugins"],
    entry_points={"ser_plugins.heads": ["attention = ser_head_attention:Attention"]},
)
