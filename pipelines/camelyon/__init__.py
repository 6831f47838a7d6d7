"""CAMELYON16: metastases in lymph node slides (Ehteshami Bejnordi et al., JAMA 2017)."""
